/** Encoders of recordings: H.264 in MP4, else VP8 in WebM, else JPEG in Matroska. */

const MP4 = () => import("../vendor/mp4-muxer.min.js");
const WEBM = () => import("../vendor/webm-muxer.min.js");
// MP4 with H.264 plays nearly everywhere. VP8 costs the least processor time of what is left.
const VIDEO = [
  { codec: "avc1.420028", library: MP4, track: "avc", type: "video/mp4", extension: "mp4" },
  { codec: "vp8", library: WEBM, track: "V_VP8", type: "video/webm", extension: "webm" },
];
const JPEG = { library: WEBM, track: "V_MJPEG", type: "video/x-matroska", extension: "mkv" };
const JPEG_QUALITY = 0.9;
const BITS_PER_PIXEL = 0.4; // of each frame: little loss, as the frames are shown once
const [MIN_BITRATE, MAX_BITRATE] = [1_000_000, 8_000_000]; // bits per second

/**
 * Resolves to an encoder: add(canvas, { timestamp, duration, keyFrame }), in microseconds;
 * finish(), which resolves to a Blob, or null; `numQueued`, `numBytes`, `error` and `extension`.
 * canEncode: false if this browser has no VideoEncoder, as on a page without TLS.
 */
export async function openEncoder({ width, height, fps, canEncode }) {
  const wanted = Math.round(width * height * fps * BITS_PER_PIXEL);
  const bitrate = Math.min(MAX_BITRATE, Math.max(MIN_BITRATE, wanted));
  for (const format of canEncode ? VIDEO : []) {
    const config = { codec: format.codec, width, height, bitrate, framerate: fps };
    const { supported } = await VideoEncoder.isConfigSupported(config).catch(() => ({}));
    if (!supported) continue;
    const file = await VideoFile.open(format, width, height);
    return new WebCodecsEncoder(file, { ...config, latencyMode: "realtime" });
  }
  return new JpegEncoder(await VideoFile.open(JPEG, width, height));
}

/** The file that a muxer writes. */
class VideoFile {
  #muxer;
  #type;
  extension;
  numBytes = 0;

  static async open(format, width, height) {
    return new VideoFile(await format.library(), format, { width, height });
  }

  constructor({ Muxer, ArrayBufferTarget }, { track, type, extension }, size) {
    this.#type = type;
    this.extension = extension;
    // An option of one library means nothing to the other.
    this.#muxer = new Muxer({
      target: new ArrayBufferTarget(),
      video: { codec: track, ...size },
      fastStart: "in-memory",
      type: extension === "webm" ? "webm" : "matroska",
    });
  }

  /** data: an EncodedVideoChunk's, with what the encoder says of it. */
  add(data, { type, timestamp, duration, decoderConfig }) {
    this.numBytes += data.byteLength;
    const meta = decoderConfig === undefined ? undefined : { decoderConfig };
    if (this.extension === "mp4")
      this.#muxer.addVideoChunkRaw(data, type, timestamp, duration, meta);
    else this.#muxer.addVideoChunkRaw(data, type, timestamp, meta);
  }

  finish() {
    if (this.numBytes === 0) return null;
    this.#muxer.finalize();
    return new Blob([this.#muxer.target.buffer], { type: this.#type });
  }
}

class WebCodecsEncoder {
  #file;
  #encoder;
  error = null;

  constructor(file, config) {
    this.#file = file;
    this.#encoder = new VideoEncoder({
      output: (chunk, metadata) => this.#write(chunk, metadata?.decoderConfig),
      error: (error) => {
        this.error = error;
      },
    });
    this.#encoder.configure(config);
  }

  get extension() {
    return this.#file.extension;
  }

  get numBytes() {
    return this.#file.numBytes;
  }

  get numQueued() {
    return this.#encoder.encodeQueueSize;
  }

  add(canvas, { timestamp, duration, keyFrame }) {
    const frame = new VideoFrame(canvas, { timestamp, duration });
    this.#encoder.encode(frame, { keyFrame });
    frame.close();
  }

  async finish() {
    if (this.error === null) await this.#encoder.flush().catch(() => null);
    if (this.#encoder.state !== "closed") this.#encoder.close();
    return this.#file.finish();
  }

  #write(chunk, decoderConfig) {
    const data = new Uint8Array(chunk.byteLength);
    chunk.copyTo(data);
    const { type, timestamp, duration } = chunk;
    this.#file.add(data, { type, timestamp, duration, decoderConfig: tidy(decoderConfig) });
  }
}

/** Without a colour space that is known in part: the muxers want all of it, or none. */
function tidy(decoderConfig) {
  const { colorSpace, ...config } = decoderConfig ?? {};
  const isKnown = colorSpace?.matrix && colorSpace.primaries && colorSpace.transfer;
  if (decoderConfig === undefined || isKnown) return decoderConfig;
  return config;
}

class JpegEncoder {
  #file;
  #writing = Promise.resolve(); // a chain, so that frames keep their order
  numQueued = 0;
  error = null;

  constructor(file) {
    this.#file = file;
  }

  get extension() {
    return this.#file.extension;
  }

  get numBytes() {
    return this.#file.numBytes;
  }

  add(canvas, { timestamp, duration }) {
    this.numQueued += 1;
    const encoded = canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
    this.#writing = Promise.all([encoded, this.#writing])
      .then(async ([blob]) => {
        const data = new Uint8Array(await blob.arrayBuffer());
        this.#file.add(data, { type: "key", timestamp, duration });
      })
      .catch((error) => {
        this.error = error;
      })
      .finally(() => {
        this.numQueued -= 1;
      });
  }

  async finish() {
    await this.#writing;
    return this.#file.finish();
  }
}
