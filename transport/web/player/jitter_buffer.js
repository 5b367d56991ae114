/**
 * The playout clock: frames in, one frame out when it is due. Pure; time is an argument.
 *
 * What is left in the queue when the next chunk arrives is steered to a small margin: enough that
 * a late chunk leaves no gap, and no more, since a key acts behind all that is queued.
 */

import { Margin } from "./jitter_target.js";

const FASTEST = 1.1;
const SLOWEST = 0.94;
const CATCH_UP_MS = 1500; // of playing, in which what is too much or too little is made up for
const FULL = 3; // chunks; beyond, the oldest are dropped (a hidden tab shows nothing)

export class Playback {
  #queue = []; // { picture, chunkIndex, ... }
  #due = null; // ms; when the next frame's turn comes; null before the first frame
  #waiting = true; // for enough to begin with: at first, and after running dry
  #rate = 1;
  #margin = new Margin();
  #numInChunk = 0; // frames of the chunk that arrives
  #onDrop;

  fps;
  chunkFrames;
  leftMs = null; // what was left when the last chunk began to arrive
  numShown = 0;
  numLate = 0; // frame times that passed with nothing to show
  numDropped = 0;
  numCut = 0; // dropped because a newer chunk answers what a person did

  /** onDrop(frame): called for each frame that will never be shown. */
  constructor({ fps, chunkFrames, onDrop }) {
    this.fps = fps;
    this.chunkFrames = chunkFrames;
    this.#onDrop = onDrop;
  }

  get length() {
    return this.#queue.length;
  }

  get targetMs() {
    return this.#margin.targetMs;
  }

  /**
   * One batch, decoded at `now` (ms); where it was spoiled, without frames.
   * opensChunk, endsChunk: whether it is a chunk's first, its last. cutsOver: whether older chunks
   * need not be shown any more.
   */
  push(now, frames, { opensChunk, endsChunk, cutsOver = false }) {
    if (opensChunk) this.#chunkArrives(now, cutsOver);
    if (cutsOver && frames.length > 0) this.#cutBefore(frames[0].chunkIndex);
    this.#queue.push(...frames);
    this.#numInChunk += frames.length;
    if (endsChunk || this.#mediaMs(this.length) >= this.targetMs) this.#waiting = false;
    if (this.length > FULL * this.chunkFrames) {
      this.numDropped += this.#drop(this.length - this.chunkFrames);
    }
  }

  /** The frame whose turn it is at `now` (ms), or null. */
  take(now) {
    const isDue = this.#due === null || now >= this.#due;
    if (this.length === 0 && isDue) this.#waiting = true;
    if (this.#waiting || !isDue || this.length === 0) return null;
    const frameTime = this.#mediaMs(1) / this.#rate;
    const lag = this.#due === null ? 0 : now - this.#due;
    this.numLate += Math.floor(lag / frameTime);
    // A screen that refreshes a little after the turn keeps the beat; a real gap starts a new one.
    this.#due = (lag < frameTime ? now - lag : now) + frameTime;
    this.numShown += 1;
    return this.#queue.shift();
  }

  /** Starts a new beat at the next frame: what was missed until then is not late. */
  restart() {
    this.#due = null;
  }

  /** Nothing more will come: what is left is enough to begin with. */
  drain() {
    this.#waiting = false;
  }

  clear() {
    this.#drop(this.length);
  }

  #chunkArrives(now, cutsOver) {
    if (cutsOver) {
      this.#margin.skip(now);
      this.#rate = 1;
    } else {
      this.#margin.arrive(now, this.#mediaMs(this.#numInChunk));
      this.leftMs = this.#mediaMs(this.length);
      const surplus = this.#waiting ? 0 : this.leftMs - this.targetMs;
      this.#rate = Math.min(FASTEST, Math.max(SLOWEST, 1 + surplus / CATCH_UP_MS));
    }
    this.#numInChunk = 0;
  }

  #cutBefore(chunkIndex) {
    const at = this.#queue.findIndex((frame) => frame.chunkIndex >= chunkIndex);
    this.numCut += this.#drop(at < 0 ? this.length : at);
    this.#waiting = false; // the point is to show it at once
  }

  #drop(num) {
    this.#queue.splice(0, num).forEach(this.#onDrop);
    return num;
  }

  #mediaMs(numFrames) {
    return (1000 * numFrames) / this.fps;
  }
}
