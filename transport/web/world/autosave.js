/**
 * Saves the open world again and again while it goes on, and when its page is hidden. A saved world
 * holds the frames up that come behind it, so a slow line carries one only while the world rests.
 */

const PERIOD_MS = 10_000;
const MAX_TRANSFER_MS = 1000; // of a saved world, while frames are awaited
const USUAL_BYTES = 300_000; // of the pocket world

export class Autosave {
  #session;
  #onSaved;
  #onFailed;
  #timer;
  #onVisibility = () => {
    if (document.hidden) this.save(); // the page may never be shown again
  };
  #saving = null; // the promise of the save under way
  #savedIndex = null; // newest chunk at the last save
  #numBytes = USUAL_BYTES; // of the last save

  /**
   * onSaved(message): called with each `snapshot` message.
   * onFailed(error): called once, with the error after which nothing is saved any more.
   */
  constructor(session, { onSaved, onFailed }) {
    this.#session = session;
    this.#onSaved = onSaved;
    this.#onFailed = onFailed;
    this.#timer = setInterval(() => this.#tick(), PERIOD_MS);
    document.addEventListener("visibilitychange", this.#onVisibility);
  }

  /** Saves the world unless nothing is new. Resolves when it is saved, also by a save under way. */
  save() {
    this.#saving ??= this.#save().finally(() => {
      this.#saving = null;
    });
    return this.#saving;
  }

  async #save() {
    const { state, stats } = this.#session;
    const isOpen = state === "playing" || state === "paused";
    if (!isOpen || stats.chunkIndex === this.#savedIndex) return;
    try {
      const message = await this.#session.ask("save");
      this.#savedIndex = stats.chunkIndex;
      this.#numBytes = message.data.length;
      await this.#onSaved(message);
    } catch (error) {
      if (this.#session.state !== "ended") {
        this.stop();
        this.#onFailed(error);
      }
    }
  }

  /** A slow line waits for a pause, and a fast one saves no world that rests. */
  #tick() {
    const { state, stats } = this.#session;
    const isSlow = stats.lineRate !== null && this.#numBytes / stats.lineRate > MAX_TRANSFER_MS;
    if (isSlow === (state === "paused")) this.save();
  }

  stop() {
    clearInterval(this.#timer);
    document.removeEventListener("visibilitychange", this.#onVisibility);
  }
}
