/**
 * Which encoding a line carries. Pure; time is an argument.
 *
 * The load is the time that the line needs for a chunk, over the time until the next one.
 * A new key makes a chunk come early, so that the line needs room for it. Pictures have twice the
 * load: they come in messages of six, so that the first one waits for half of the chunk's bytes.
 * - Down: two chunks in a row with a load over 0.7, or one that takes the line 1.5 times as long as
 *   there is. It goes to the first step with an expected load of at most 0.6, or to the lowest.
 * - Up: one step, once its expected load has been at most 0.4 for 8 s. If it has to go down again
 *   within 20 s, the next wait is twice as long, up to 2 min. A step that lasts resets the wait.
 * - The expected load of a step is the last one, by the share of bytes. The shares are constants
 *   until the change from one step to another has measured them.
 */

const HIGH_LOAD = 0.7;
const EXTREME_SHARE = 1.5; // of the time until the next chunk
const TARGET_LOAD = 0.6;
const LOW_LOAD = 0.4;
const FIRST_HOLD_MS = 8_000;
const MAX_HOLD_MS = 120_000;
const TRIAL_MS = 20_000;
const PICTURE_WEIGHT = 2;
const MAX_CORRECTION = 4; // of a share: content differs, but not by more

// `share`: of the first step's bytes, as pictures of 832x480 need them. `width`: of the world's own.
const FIRST = { format: "jpeg", quality: 90, width: 1, share: 1 };
export const VIDEO_STEPS = [
  FIRST,
  { format: "h264", quality: 90, width: 1, share: 0.35 },
  { format: "h264", quality: 75, width: 1, share: 0.16 },
  { format: "h264", quality: 60, width: 1, share: 0.06 },
  { format: "h264", quality: 60, width: 0.5, share: 0.015 },
  { format: "h264", quality: 45, width: 0.5, share: 0.004 },
];
/** For browsers without a decoder of H.264. */
export const PICTURE_STEPS = [
  FIRST,
  { format: "webp", quality: 75, width: 1, share: 0.52 },
  { format: "webp", quality: 50, width: 0.5, share: 0.14 },
  { format: "webp", quality: 30, width: 0.5, share: 0.11 },
  { format: "webp", quality: 30, width: 0.25, share: 0.035 },
];

export class Ladder {
  #steps;
  #shares;
  #at = 0;
  #numHigh = 0; // chunks in a row with a high load
  #lowSinceMs = null;
  #changedMs = null; // when it last went up
  #holdMs = FIRST_HOLD_MS;
  #left = null; // { at, numBytes, isFresh } of the step before the last change, until it is measured
  #lastBytes = 0;

  constructor(steps) {
    this.#steps = steps;
    this.#shares = steps.map(({ share }) => share);
  }

  get step() {
    return this.#steps[this.#at];
  }

  get isFirst() {
    return this.#at === 0;
  }

  get isLowest() {
    return this.#at === this.#steps.length - 1;
  }

  /** Adds a chunk: see `LineMeter.finish`. Returns true if the step has changed. */
  add(nowMs, { transferMs, mediaMs, serverMs, numBytes, isSettled }) {
    if (!isSettled || transferMs === null) return false;
    this.#learn(numBytes);
    const share = transferMs / Math.max(mediaMs, serverMs);
    const load = share * weightOf(this.step);
    this.#numHigh = load > HIGH_LOAD ? this.#numHigh + 1 : 0;
    const isTooHigh = this.#numHigh >= 2 || share > EXTREME_SHARE;
    return isTooHigh ? this.#goDown(nowMs, load) : this.#goUp(nowMs, load);
  }

  #goDown(nowMs, load) {
    if (this.isLowest) return false;
    if (this.#changedMs !== null && nowMs - this.#changedMs < TRIAL_MS) {
      this.#holdMs = Math.min(MAX_HOLD_MS, 2 * this.#holdMs);
    }
    const isCarried = (_, at) => at > this.#at && this.#expect(load, at) <= TARGET_LOAD;
    const at = this.#steps.findIndex(isCarried);
    this.#change(at < 0 ? this.#steps.length - 1 : at);
    this.#changedMs = null;
    return true;
  }

  #goUp(nowMs, load) {
    if (this.#changedMs !== null && nowMs - this.#changedMs >= TRIAL_MS) {
      this.#changedMs = null;
      this.#holdMs = FIRST_HOLD_MS;
    }
    if (this.isFirst || this.#expect(load, this.#at - 1) > LOW_LOAD) {
      this.#lowSinceMs = null;
      return false;
    }
    this.#lowSinceMs ??= nowMs;
    if (nowMs - this.#lowSinceMs < this.#holdMs) return false;
    this.#change(this.#at - 1);
    this.#changedMs = nowMs;
    return true;
  }

  /** The load at another step, by the share of bytes. */
  #expect(load, at) {
    const weigh = (step) => this.#shares[step] * weightOf(this.#steps[step]);
    return (load * weigh(at)) / weigh(this.#at);
  }

  #change(at) {
    this.#left = { at: this.#at, numBytes: this.#lastBytes, isFresh: true };
    this.#at = at;
    this.#numHigh = 0;
    this.#lowSinceMs = null;
  }

  /** Measures the share of a step by its second chunk: the first one has the key frame. */
  #learn(numBytes) {
    if (this.#left?.isFresh) {
      this.#left.isFresh = false;
    } else if (this.#left !== null) {
      const share = (this.#shares[this.#left.at] * numBytes) / this.#left.numBytes;
      const first = this.#steps[this.#at].share;
      this.#shares[this.#at] = clamp(share, first / MAX_CORRECTION, first * MAX_CORRECTION);
      this.#left = null;
    }
    this.#lastBytes = numBytes;
  }
}

function weightOf({ format }) {
  return format === "h264" ? 1 : PICTURE_WEIGHT;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
