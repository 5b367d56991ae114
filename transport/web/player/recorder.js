/** Records the canvas to a file. */

const TYPES = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
const MAX_BITS_PER_SECOND = 8_000_000; // a small canvas takes far less
const PERIOD_MS = 1000;

export class Recorder {
  #canvas;
  #onChange;
  #onFile;
  #recorder = null;
  #startedMs = 0;
  #timer = 0;

  /**
   * onChange(seconds): called each second of a recording, and with null when it ends.
   * onFile(blob, extension): called with the recording.
   */
  constructor(canvas, { onChange, onFile }) {
    this.#canvas = canvas;
    this.#onChange = onChange;
    this.#onFile = onFile;
  }

  static get isSupported() {
    return "MediaRecorder" in window && "captureStream" in HTMLCanvasElement.prototype;
  }

  toggle() {
    if (this.#recorder === null) this.#start();
    else this.stop();
  }

  /** Ends the recording, if there is one. */
  stop() {
    if (this.#recorder === null) return;
    this.#recorder.stop();
    for (const track of this.#recorder.stream.getTracks()) track.stop();
    this.#recorder = null;
    clearInterval(this.#timer);
    this.#onChange(null);
  }

  #start() {
    const recorder = new MediaRecorder(this.#canvas.captureStream(), {
      mimeType: TYPES.find((type) => MediaRecorder.isTypeSupported(type)),
      videoBitsPerSecond: MAX_BITS_PER_SECOND,
    });
    const parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    const extension = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    recorder.onstop = () => this.#onFile(new Blob(parts, { type: recorder.mimeType }), extension);
    recorder.start(PERIOD_MS);
    this.#recorder = recorder;
    this.#startedMs = performance.now();
    this.#timer = setInterval(() => this.#emit(), PERIOD_MS);
    this.#emit();
  }

  #emit() {
    this.#onChange(Math.round((performance.now() - this.#startedMs) / 1000));
  }
}
