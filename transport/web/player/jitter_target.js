/** The target level of the jitter buffer: as much as chunks come late, within bounds. Pure. */

const MIN_MS = 180;
const MAX_MS = 360;
const DECAY = 0.9; // of the worst lateness, from chunk to chunk

export class JitterTarget {
  #lateMs = 0; // the worst recent lateness, decaying
  #lastArrivalMs = null; // when the last chunk began to arrive

  get ms() {
    return Math.min(MAX_MS, Math.max(MIN_MS, this.#lateMs));
  }

  /** A chunk begins to arrive at `nowMs`. The chunk before it lasted `mediaMs`. */
  arrive(nowMs, mediaMs) {
    if (this.#lastArrivalMs !== null) {
      this.#lateMs = Math.max(nowMs - this.#lastArrivalMs - mediaMs, this.#lateMs * DECAY);
    }
    this.#lastArrivalMs = nowMs;
  }

  /** A chunk was sent out of turn. Its arrival time is no measure of the network. */
  skip(nowMs) {
    this.#lastArrivalMs = nowMs;
  }
}
