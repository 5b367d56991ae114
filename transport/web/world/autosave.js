/** Saves the open world again and again while it goes on, and when its page is hidden. */

const PERIOD_MS = 10_000;

export class Autosave {
  #session;
  #onSaved;
  #onFailed;
  #timer;
  #onVisibility = () => {
    if (document.hidden) this.save(); // the page may never be shown again
  };
  #isSaving = false;
  #savedIndex = null; // newest chunk at the last save

  /**
   * onSaved(message): called with each `snapshot` message.
   * onFailed(error): called once, with the error after which nothing is saved any more.
   */
  constructor(session, { onSaved, onFailed }) {
    this.#session = session;
    this.#onSaved = onSaved;
    this.#onFailed = onFailed;
    this.#timer = setInterval(() => this.save(), PERIOD_MS);
    document.addEventListener("visibilitychange", this.#onVisibility);
  }

  /** Saves the world unless nothing is new, or a save is under way. */
  async save() {
    const { state, stats } = this.#session;
    if (state !== "playing" || this.#isSaving || stats.chunkIndex === this.#savedIndex) return;
    this.#isSaving = true;
    try {
      const message = await this.#session.save();
      this.#savedIndex = stats.chunkIndex;
      await this.#onSaved(message);
    } catch (error) {
      if (this.#session.state !== "ended") {
        this.stop();
        this.#onFailed(error);
      }
    } finally {
      this.#isSaving = false;
    }
  }

  stop() {
    clearInterval(this.#timer);
    document.removeEventListener("visibilitychange", this.#onVisibility);
  }
}
