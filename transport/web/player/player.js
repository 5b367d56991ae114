/** The page's proxy of the player worker: sends it frame batches and receives its reports. */

const PREVIEW_QUALITY = 0.8;

export class Player {
  #worker;
  #canvas;
  #sessionId = 0; // late reports of earlier sessions are ignored
  #onReport = () => {};
  #pendingReads = new Map(); // id to the resolve function of its promise
  #nextReadId = 0;
  #hasReported = false;

  /**
   * Transfers both canvases to the worker. Throws if this browser has no OffscreenCanvas.
   * onUnsupported(): called if the worker cannot run.
   */
  constructor({ world, glow, onUnsupported }) {
    this.#canvas = world;
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
  }

  /** Starts a session. onReport({ report, stats, ... }): see FramePlayer. The image of a preview is a JPEG. */
  open({ fps, chunkFrames, onReport }) {
    this.#sessionId += 1;
    this.#onReport = onReport;
    this.#send("open", { sessionId: this.#sessionId, fps, chunkFrames });
  }

  /** Shows an ImageBitmap until the first frame. Takes ownership of the bitmap. */
  showImage(image) {
    this.#setAspect(image);
    this.#send("showImage", { image }, [image]);
  }

  /** Shows an image file until the first frame. Rejects if it cannot be decoded. */
  async showFile(blob) {
    const sessionId = this.#sessionId;
    const image = await createImageBitmap(blob);
    if (sessionId === this.#sessionId) this.showImage(image);
    else image.close();
  }

  /** Drops the frames that were received before, and are not shown yet. */
  flush() {
    this.#send("flush");
  }

  /** Shows the next chunk at once, whenever it comes: the session was paused. */
  restart() {
    this.#pause();
  }

  setPace({ fps, chunkFrames }) {
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
    const id = this.#nextReadId++;
    this.#send("readFrame", { id });
    return new Promise((resolve) => this.#pendingReads.set(id, resolve));
  }

  #pause() {
    this.#send("pause", { paused: document.hidden });
  }

  #send(command, details = {}, transfer = []) {
    this.#worker.postMessage({ command, ...details }, transfer);
  }

  #receive(message) {
    this.#hasReported = true;
    if (message.report === "frame") {
      this.#pendingReads.get(message.id)(message.frame);
      this.#pendingReads.delete(message.id);
    } else if (message.sessionId === this.#sessionId) {
      if (message.report === "shown") this.#setAspect(message);
      if (message.report === "preview") this.#encodePreview(message);
      else this.#onReport(message);
    }
  }

  /** Reports a preview as a JPEG. Its stats are old by then, and left out. */
  async #encodePreview({ image, sessionId, worldChunkIndex }) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: image.width, height: image.height });
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(image);
    const encoded = (resolve) => canvas.toBlob(resolve, "image/jpeg", PREVIEW_QUALITY);
    const jpeg = await new Promise(encoded);
    if (jpeg !== null && sessionId === this.#sessionId) {
      this.#onReport({ report: "preview", image: jpeg, worldChunkIndex });
    }
  }

  /** The canvas element learns its new size later than the worker, so CSS gets the aspect here. */
  #setAspect({ width, height }) {
    this.#canvas.style.setProperty("--aspect", width / height);
  }
}
