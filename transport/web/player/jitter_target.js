/** How much playout keeps in store: as much as chunks come late, within bounds. Pure. */

const LEAST_MS = 180;
const MOST_MS = 360;
const REMEMBERED = 0.9; // of the worst lateness, from chunk to chunk

export class Margin {
  #late = 0; // ms; the worst of late, fading
  #last = null; // ms; when the last chunk began to arrive

  get targetMs() {
    return Math.min(MOST_MS, Math.max(LEAST_MS, this.#late));
  }

  /** A chunk begins to arrive at `now`; the one before it lasted `mediaMs`. */
  arrive(now, mediaMs) {
    if (this.#last !== null) {
      this.#late = Math.max(now - this.#last - mediaMs, this.#late * REMEMBERED);
    }
    this.#last = now;
  }

  /** A chunk that was sent out of turn, which says nothing of the network. */
  skip(now) {
    this.#last = now;
  }
}
