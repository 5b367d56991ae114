/** Records the canvas to a file that the browser downloads. */

const TYPES = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
const MAX_BITS_PER_SECOND = 8_000_000; // a small canvas takes far less
const PERIOD_MS = 1000;

export class Recorder {
  #canvas;
  #onChange;
  #recorder = null;
  #startedMs = 0;
  #timer = 0;

  /** onChange(seconds): called each second of a recording, and with null when it ends. */
  constructor(canvas, onChange) {
    this.#canvas = canvas;
    this.#onChange = onChange;
  }

  static get isSupported() {
    return "MediaRecorder" in window && "captureStream" in HTMLCanvasElement.prototype;
  }

  toggle() {
    if (this.#recorder === null) this.#start();
    else this.stop();
  }

  /** Ends the recording, if there is one, and downloads its file. */
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
    recorder.onstop = () => download(new Blob(parts, { type: recorder.mimeType }));
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

function download(blob) {
  const url = URL.createObjectURL(blob);
  const date = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const extension = blob.type.includes("mp4") ? "mp4" : "webm";
  Object.assign(document.createElement("a"), {
    href: url,
    download: `lingbot-${date}.${extension}`,
  }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // by then the download has begun
}
