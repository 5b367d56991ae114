/** The page's proxy of the player worker: sends it frame batches and receives its reports. */

const PREVIEW_QUALITY = 0.8;

// WebKit scales a canvas that a worker draws by the nearest pixel. Without a GPU, the glow behind
// the world takes it as long to compose as the world.
const IS_WEBKIT = navigator.vendor.startsWith("Apple");

export class Player {
  #world; // the page's canvas
  #worker;
  #sessionId = 0; // late reports of earlier sessions are ignored
  #onReport = () => {};
  #pending = new Map(); // id of a question to the resolve function of its promise
  #nextId = 0;
  #fps = null;
  #hasShown = false; // a frame of this session
  #numFlushes = 0; // of this session
  #recording = null; // { onSecond, onEnd, onFile } and its id
  #hasReported = false;

  /**
   * Transfers both canvases to the worker. Throws if this browser has no OffscreenCanvas.
   * onUnsupported(): called if the worker cannot run.
   */
  constructor({ world, glow, onUnsupported }) {
    this.#world = world;
    const canvases = {
      world: world.transferControlToOffscreen(),
      glow: glow.transferControlToOffscreen(),
    };
    this.#worker = new Worker(new URL("player_worker.js", import.meta.url), { type: "module" });
    this.#worker.onerror = () => {
      if (!this.#hasReported) onUnsupported(); // a later error is a bug of ours, not an old browser
    };
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#send("attach", canvases, Object.values(canvases));
    document.addEventListener("visibilitychange", () => this.#pause());
    this.#pause();
    if (IS_WEBKIT) {
      glow.hidden = true;
      new ResizeObserver(() => this.#enlarge()).observe(world);
    }
  }

  /** Starts a session. onReport({ report, stats, ... }): see FramePlayer. The image of a preview is a JPEG. */
  open({ fps, chunkFrames, onReport }) {
    this.#sessionId += 1;
    this.#onReport = onReport;
    this.#fps = fps;
    this.#hasShown = false;
    this.#numFlushes = 0;
    this.#send("open", { sessionId: this.#sessionId, fps, chunkFrames });
  }

  /** Shows an ImageBitmap until the first frame. Takes ownership of the bitmap. */
  showImage(image) {
    if (!this.#hasShown) this.#setAspect(image);
    this.#send("showImage", { image }, [image]);
  }

  /** Shows an image file until the first frame. Rejects if it cannot be decoded. */
  async showFile(blob) {
    const sessionId = this.#sessionId;
    const image = await createImageBitmap(blob);
    if (sessionId === this.#sessionId) this.showImage(image);
    else image.close();
  }

  /** Drops the frames that were received before, and are not shown yet, and previews under way. */
  flush() {
    this.#numFlushes += 1;
    this.#send("flush");
  }

  /** Shows the next chunk at once, whenever it comes: the session was paused. */
  restart() {
    this.#pause();
  }

  setPace({ fps, chunkFrames }) {
    this.#fps = fps;
    this.#send("setPace", { fps, chunkFrames });
  }

  /** Queues a frame_batch message. Its payload is transferred, not copied. */
  addBatch(message) {
    this.#send("addBatch", { message }, [message.payload.buffer]);
  }

  /** Asks for a "finished" report, sent when all batches are decoded and, with `drain`, shown. */
  finish({ drain }) {
    this.#send("finish", { drain });
  }

  close() {
    this.#onReport = () => {};
    this.#send("close");
  }

  /** Resolves to the frame on the canvas, or null: see Canvas. */
  readFrame() {
    return this.#ask("readFrame");
  }

  /** Resolves to a PNG of what is shown, or null if this browser cannot make one. */
  takePicture() {
    return this.#ask("takePicture");
  }

  /**
   * Records the frames that are shown from now on.
   * listeners: onSecond(seconds), onEnd(): the recording takes no more frames, onFile(blob,
   * extension), after `stopRecording`; the blob is null if nothing could be encoded.
   */
  startRecording({ canEncode, ...listeners }) {
    this.#recording = { id: this.#nextId++, ...listeners };
    this.#send("startRecording", { id: this.#recording.id, fps: this.#fps, canEncode });
  }

  async stopRecording() {
    const { onFile } = this.#recording;
    this.#recording = null;
    const { blob, extension } = await this.#ask("stopRecording");
    onFile(blob ?? null, extension);
  }

  #enlarge() {
    const { width, height } = this.#world.getBoundingClientRect();
    if (width === 0 || height === 0) return; // another screen is shown
    const size = { width: width * devicePixelRatio, height: height * devicePixelRatio };
    this.#send("enlarge", { width: Math.round(size.width), height: Math.round(size.height) });
  }

  #pause() {
    this.#send("pause", { paused: document.hidden });
  }

  #send(command, details = {}, transfer = []) {
    this.#worker.postMessage({ command, ...details }, transfer);
  }

  /** Resolves to the worker's answer. */
  #ask(command) {
    const id = this.#nextId++;
    this.#send(command, { id });
    return new Promise((resolve) => this.#pending.set(id, resolve));
  }

  #receive(message) {
    this.#hasReported = true;
    if (message.report === "answer") {
      this.#pending.get(message.id)(message.answer);
      this.#pending.delete(message.id);
    } else if (message.report.startsWith("recording")) {
      if (message.id !== this.#recording?.id) return; // it was ended meanwhile
      if (message.report === "recording") this.#recording.onSecond(message.seconds);
      else this.#recording.onEnd();
    } else if (message.sessionId === this.#sessionId) {
      if (message.report === "shown") {
        this.#hasShown = true;
        this.#setAspect(message);
      }
      if (message.report === "preview") this.#encodePreview(message);
      else this.#onReport(message);
    }
  }

  /** Reports a preview as a JPEG. Its stats are old by then, and left out. */
  async #encodePreview({ image, sessionId, numFlushes, worldChunkIndex }) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: image.width, height: image.height });
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(image);
    const encoded = (resolve) => canvas.toBlob(resolve, "image/jpeg", PREVIEW_QUALITY);
    const jpeg = await new Promise(encoded);
    const isOfThisPast = sessionId === this.#sessionId && numFlushes === this.#numFlushes;
    if (jpeg !== null && isOfThisPast) {
      this.#onReport({ report: "preview", image: jpeg, worldChunkIndex });
    }
  }

  /** The canvas element learns its new size later than the worker, so CSS gets the aspect here. */
  #setAspect({ width, height }) {
    document.body.style.setProperty("--aspect", width / height);
  }
}
