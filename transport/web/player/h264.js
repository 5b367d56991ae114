/** Decodes H.264 with WebCodecs: one access unit in, one frame out. */

// The wire's colour space. Chromium assumes BT.709 for a stream that states only a part of it.
const BT601 = {
  matrix: "smpte170m",
  primaries: "smpte170m",
  transfer: "smpte170m",
  fullRange: false,
};
const DECODE_TIMEOUT_MS = 2000; // for one frame; a unit without output would block all later ones

/** `recovery`: "key_frame", or "jpeg" if a key frame would not help either. */
export class DecodeError extends Error {
  constructor(recovery, cause) {
    super(`cannot decode H.264: ${cause}`);
    this.recovery = recovery;
  }
}

export class H264Decoder {
  #decoder = null; // null until a key frame
  #stream = null; // codec and size that the decoder is configured for
  #pending = null; // { resolve, reject } of the unit in the decoder

  /**
   * Returns one ImageBitmap, or none between a failure and the next key frame.
   * Rejects with DecodeError.
   */
  async decode({ payload, codec, width, height, timestamp_us, key_frame }) {
    try {
      if (key_frame) this.#open(codec, `${codec} ${width}x${height}`);
      if (this.#decoder === null) return [];
      const type = key_frame ? "key" : "delta";
      const unit = new EncodedVideoChunk({ type, timestamp: timestamp_us, data: payload });
      return [await this.#decodeUnit(unit)];
    } catch (error) {
      this.close();
      throw new DecodeError(key_frame ? "jpeg" : "key_frame", error);
    }
  }

  close() {
    if (this.#decoder !== null && this.#decoder.state !== "closed") this.#decoder.close();
    this.#decoder = null;
    this.#stream = null;
    this.#pending = null;
  }

  #open(codec, stream) {
    if (stream === this.#stream) return;
    this.close();
    this.#decoder = new VideoDecoder({
      output: (frame) => this.#output(frame),
      error: (error) => this.#pending?.reject(error),
    });
    // No description: the stream is Annex B, and its key frames carry their parameter sets.
    this.#decoder.configure({ codec, optimizeForLatency: true, colorSpace: BT601 });
    this.#stream = stream;
  }

  #decodeUnit(unit) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("no frame")), DECODE_TIMEOUT_MS);
      const settle = (then) => (value) => {
        clearTimeout(timer);
        then(value);
      };
      this.#pending = { resolve: settle(resolve), reject: settle(reject) };
      this.#decoder.decode(unit);
    });
  }

  /** Copies the frame to a bitmap: a decoder lends fewer frames than the jitter buffer holds. */
  #output(frame) {
    const pending = this.#pending;
    this.#pending = null;
    if (pending === null) frame.close();
    else
      createImageBitmap(frame)
        .then(pending.resolve, pending.reject)
        .finally(() => frame.close());
  }
}
