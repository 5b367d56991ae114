/** Frames that travel as H.264: one access unit in, one picture out, by WebCodecs. */

// The wire's colours, as the stream has them. Said here, too, because Chromium takes a stream that
// leaves out a part of them for BT.709.
const BT601 = {
  matrix: "smpte170m",
  primaries: "smpte170m",
  transfer: "smpte170m",
  fullRange: false,
};
const PATIENCE_MS = 2000; // for one picture; a decoder that swallowed a unit would hold up the rest

/** `remedy`: what would help, "key_frame" or, where that would not either, "jpeg". */
export class Undecodable extends Error {
  constructor(remedy, cause) {
    super(`H.264 that cannot be decoded: ${cause}`);
    this.remedy = remedy;
  }
}

export class H264Decoder {
  #decoder = null; // null until a key frame comes that it can begin with
  #stream = null; // what it is configured for
  #waiting = null; // { resolve, reject } of the unit in the decoder

  /** One ImageBitmap; none after a failure, until the next key frame. Rejects with Undecodable. */
  async decode({ payload, codec, width, height, timestamp_us, key_frame }) {
    try {
      if (key_frame) this.#open(codec, `${codec} ${width}x${height}`);
      if (this.#decoder === null) return [];
      const type = key_frame ? "key" : "delta";
      return [
        await this.#picture(
          new EncodedVideoChunk({ type, timestamp: timestamp_us, data: payload }),
        ),
      ];
    } catch (error) {
      this.close();
      throw new Undecodable(key_frame ? "jpeg" : "key_frame", error);
    }
  }

  close() {
    if (this.#decoder !== null && this.#decoder.state !== "closed") this.#decoder.close();
    this.#decoder = null;
    this.#stream = null;
    this.#waiting = null;
  }

  #open(codec, stream) {
    if (stream === this.#stream) return;
    this.close();
    this.#decoder = new VideoDecoder({
      output: (frame) => this.#show(frame),
      error: (error) => this.#waiting?.reject(error),
    });
    // Without a description: Annex B, whose key frames bring their own parameter sets.
    this.#decoder.configure({ codec, optimizeForLatency: true, colorSpace: BT601 });
    this.#stream = stream;
  }

  #picture(unit) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("no picture")), PATIENCE_MS);
      const settle = (then) => (value) => {
        clearTimeout(timer);
        then(value);
      };
      this.#waiting = { resolve: settle(resolve), reject: settle(reject) };
      this.#decoder.decode(unit);
    });
  }

  /** A bitmap, because a decoder has few frames to lend and the queue is longer than that. */
  #show(frame) {
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting === null) frame.close();
    else
      createImageBitmap(frame)
        .then(waiting.resolve, waiting.reject)
        .finally(() => frame.close());
  }
}
