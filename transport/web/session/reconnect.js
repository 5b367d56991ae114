/** Opens a new session after one that ended for a transient reason. */

const DELAYS_S = [1, 2, 4, 8, 8, 8, 8, 8];
const RESET_AFTER_MS = 10_000; // a session that played this long resets the attempts

export class Reconnect {
  #onTick;
  #onAttempt;
  #numAttempts = 0;
  #timer = 0;

  /**
   * onTick(seconds, attempt, maxAttempts): called every second until the attempt; 0 s is now.
   * onAttempt(): opens the session.
   */
  constructor({ onTick, onAttempt }) {
    this.#onTick = onTick;
    this.#onAttempt = onAttempt;
  }

  /**
   * Schedules an attempt after a session that played for `playedMs`. Returns false if none is left.
   * afterS: seconds until the attempt, from the server; null: few at first, and then more.
   * atOnce: the first attempt, without `afterS`, does not wait.
   */
  start(playedMs, { afterS = null, atOnce = false } = {}) {
    if (playedMs >= RESET_AFTER_MS) this.#numAttempts = 0;
    if (this.#numAttempts === DELAYS_S.length) return false;
    const isFirst = this.#numAttempts === 0;
    this.#numAttempts += 1;
    this.#wait(afterS ?? (atOnce && isFirst ? 0 : DELAYS_S[this.#numAttempts - 1]));
    return true;
  }

  /** Cancels the attempt under way and resets the attempts. */
  stop() {
    clearTimeout(this.#timer);
    this.#numAttempts = 0;
  }

  #wait(seconds) {
    this.#onTick(seconds, this.#numAttempts, DELAYS_S.length);
    if (seconds === 0) this.#onAttempt();
    else this.#timer = setTimeout(() => this.#wait(seconds - 1), 1000);
  }
}
