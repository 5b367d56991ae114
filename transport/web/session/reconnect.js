/** Opening a world again, by itself, where the last one ended for a reason that passes. */

const DELAYS_S = [1, 2, 4, 8, 8, 8, 8, 8];
const ENOUGH_MS = 10_000; // a walk of this length was a success: the tries count anew

export class Reopening {
  #onTick;
  #onOpen;
  #numTries = 0; // since the last walk that lasted
  #timer = 0;

  /** onTick(seconds, nth, most): how long until the nth try; 0 is now. onOpen(): the try. */
  constructor({ onTick, onOpen }) {
    this.#onTick = onTick;
    this.#onOpen = onOpen;
  }

  /** After a walk of `playedMs` that ended for a passing reason. */
  start(playedMs) {
    if (playedMs >= ENOUGH_MS) this.#numTries = 0;
    if (this.#numTries === DELAYS_S.length) return;
    this.#numTries += 1;
    this.#wait(DELAYS_S[this.#numTries - 1]);
  }

  /** A person decides: the tries count anew. */
  stop() {
    clearTimeout(this.#timer);
    this.#numTries = 0;
  }

  #wait(seconds) {
    this.#onTick(seconds, this.#numTries, DELAYS_S.length);
    if (seconds === 0) this.#onOpen();
    else this.#timer = setTimeout(() => this.#wait(seconds - 1), 1000);
  }
}
