/** Recording: what is shown, to a file that the browser downloads. */

const TYPES = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
const BITS_PER_SECOND = 8_000_000; // the most that is spent; a small picture takes far less
const PERIOD_MS = 1000;

export class Recorder {
  #canvas;
  #onChange;
  #recorder = null;
  #started = 0; // ms
  #timer = 0;

  /** onChange(seconds): each second of a recording, and null when there is none. */
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

  /** Ends the recording, if there is one, and offers its file. */
  stop() {
    if (this.#recorder === null) return;
    this.#recorder.stop();
    this.#recorder.stream.getTracks().forEach((track) => track.stop());
    this.#recorder = null;
    clearInterval(this.#timer);
    this.#onChange(null);
  }

  #start() {
    const recorder = new MediaRecorder(this.#canvas.captureStream(), {
      mimeType: TYPES.find((type) => MediaRecorder.isTypeSupported(type)),
      videoBitsPerSecond: BITS_PER_SECOND,
    });
    const parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => save(new Blob(parts, { type: recorder.mimeType }));
    recorder.start(PERIOD_MS);
    this.#recorder = recorder;
    this.#started = performance.now();
    this.#timer = setInterval(() => this.#tell(), PERIOD_MS);
    this.#tell();
  }

  #tell() {
    this.#onChange(Math.round((performance.now() - this.#started) / 1000));
  }
}

function save(blob) {
  const url = URL.createObjectURL(blob);
  const date = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const ending = blob.type.includes("mp4") ? "mp4" : "webm";
  Object.assign(document.createElement("a"), {
    href: url,
    download: `lingbot-${date}.${ending}`,
  }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the download has long begun
}
