/** The page's end of the projector: sends it batches, hears what it decoded and showed. */

export class Screen {
  #worker;
  #canvas;
  #walk = 0; // reports on earlier ones come late, and count no more
  #onReport = () => {};
  #reads = new Map(); // id to the resolve of who waits for a frame
  #numReads = 0;
  #hasReported = false;

  /**
   * Takes both canvases for good. Throws where this browser has no canvas for workers;
   * onBroken(): where the worker cannot run.
   */
  constructor({ world, glow, onBroken }) {
    this.#canvas = world;
    const canvases = {
      world: world.transferControlToOffscreen(),
      glow: glow.transferControlToOffscreen(),
    };
    this.#worker = new Worker(new URL("player_worker.js", import.meta.url), { type: "module" });
    this.#worker.onerror = () => {
      if (!this.#hasReported) onBroken(); // later it is a bug of ours, not a browser's age
    };
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#send("attach", canvases, Object.values(canvases));
    document.addEventListener("visibilitychange", () => this.#pause());
    this.#pause();
  }

  /** Makes ready for a walk. onReport({ report, figures, ... }): see Projection. */
  open({ fps, chunkFrames, onReport }) {
    this.#walk += 1;
    this.#onReport = onReport;
    this.#send("open", { walk: this.#walk, fps, chunkFrames });
  }

  /** What is on the screen until the first frame: a bitmap, which is taken. */
  cover(picture) {
    this.#shape(picture);
    this.#send("cover", { picture }, [picture]);
  }

  pace(rhythm) {
    this.#send("pace", rhythm);
  }

  /** A frame_batch, whose payload is handed over, not copied. */
  add(message) {
    this.#send("batch", { message }, [message.payload.buffer]);
  }

  /** Reports "finished" when all that came is decoded and, with `drain`, shown. */
  finish({ drain }) {
    this.#send("finish", { drain });
  }

  close() {
    this.#onReport = () => {};
    this.#send("close");
  }

  /** The frame on the canvas, or null: see Surface. */
  read() {
    const id = this.#numReads++;
    this.#send("read", { id });
    return new Promise((resolve) => this.#reads.set(id, resolve));
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
      this.#reads.get(message.id)(message.frame);
      this.#reads.delete(message.id);
    } else if (message.walk === this.#walk) {
      if (message.report === "shown") this.#shape(message);
      this.#onReport(message);
    }
  }

  /** The canvas itself learns its new size only some time after the worker does. */
  #shape({ width, height }) {
    this.#canvas.style.setProperty("--aspect", width / height);
  }
}
