/**
 * A jitter buffer: stores frames and returns each one when it is due. Pure; time is an argument.
 *
 * The playout rate steers the level, as measured when a chunk arrives, to a target. The target is
 * large enough for late chunks and no larger: every queued frame delays the effect of a key.
 */

import { JitterTarget } from "./jitter_target.js";

const MAX_RATE = 1.1;
const MIN_RATE = 0.94;
const CORRECTION_MS = 1500; // a deviation from the target is corrected in this much playout
const MAX_CHUNKS = 3; // capacity; then the oldest frames are dropped, as in a hidden tab

export class JitterBuffer {
  #queue = []; // { image, chunkIndex, ... }
  #deadlineMs = null; // when the next frame is due; null if at once
  #buffering = true; // waiting for enough frames, at the start and after an underrun
  #rate = 1;
  #target = new JitterTarget();
  #numInChunk = 0; // frames of the arriving chunk
  #restarted = false; // since the last chunk
  #onDrop;

  fps;
  chunkFrames;
  bufferedMs = null; // level when the last chunk began to arrive
  numShown = 0;
  numLate = 0; // frame times that passed without a frame to show
  numDropped = 0;
  numFlushed = 0; // dropped in favour of a chunk that answers newer controls, or of another past

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
    return this.#target.ms;
  }

  /**
   * Adds one batch, decoded at `nowMs`. `frames` is empty if decoding failed.
   * startsChunk, endsChunk: true for the first and for the last batch of a chunk.
   * flushesOlder: true to drop queued frames of older chunks.
   */
  push(nowMs, frames, { startsChunk, endsChunk, flushesOlder = false }) {
    if (startsChunk) this.#startChunk(nowMs, flushesOlder);
    if (flushesOlder && frames.length > 0) this.#flushBefore(frames[0].chunkIndex);
    this.#queue.push(...frames);
    this.#numInChunk += frames.length;
    if (endsChunk || this.#mediaMs(this.length) >= this.targetMs) this.#buffering = false;
    if (this.length > MAX_CHUNKS * this.chunkFrames) {
      this.numDropped += this.#drop(this.length - this.chunkFrames);
    }
  }

  /** The frame that is due at `nowMs`, or null. */
  take(nowMs) {
    const isDue = this.#deadlineMs === null || nowMs >= this.#deadlineMs;
    if (this.length === 0 && isDue) this.#buffering = true;
    if (this.#buffering || !isDue || this.length === 0) return null;
    const frameMs = this.#mediaMs(1) / this.#rate;
    const lagMs = this.#deadlineMs === null ? 0 : nowMs - this.#deadlineMs;
    this.numLate += Math.floor(lagMs / frameMs);
    // A lag below one frame comes from the display's refresh and keeps the beat. A gap starts anew.
    this.#deadlineMs = (lagMs < frameMs ? nowMs - lagMs : nowMs) + frameMs;
    this.numShown += 1;
    return this.#queue.shift();
  }

  /** Starts a new beat at the next frame. The time until then counts for no frame and no chunk. */
  restart() {
    this.#deadlineMs = null;
    this.#restarted = true;
  }

  /** Drops all frames: the world has been turned back. The next chunk is shown at once. */
  flush() {
    this.numFlushed += this.#drop(this.length);
    this.restart();
  }

  /** Stops buffering: no more frames will come. */
  drain() {
    this.#buffering = false;
  }

  clear() {
    this.#drop(this.length);
  }

  #startChunk(nowMs, flushesOlder) {
    if (flushesOlder || this.#restarted) {
      this.#restarted = false;
      this.#target.skip(nowMs);
      this.#rate = 1;
    } else {
      this.#target.arrive(nowMs, this.#mediaMs(this.#numInChunk));
      this.bufferedMs = this.#mediaMs(this.length);
      const surplusMs = this.#buffering ? 0 : this.bufferedMs - this.targetMs;
      this.#rate = Math.min(MAX_RATE, Math.max(MIN_RATE, 1 + surplusMs / CORRECTION_MS));
    }
    this.#numInChunk = 0;
  }

  #flushBefore(chunkIndex) {
    const at = this.#queue.findIndex((frame) => frame.chunkIndex >= chunkIndex);
    this.numFlushed += this.#drop(at < 0 ? this.length : at);
    this.#buffering = false; // the new chunk is shown at once
  }

  #drop(num) {
    this.#queue.splice(0, num).forEach(this.#onDrop);
    return num;
  }

  #mediaMs(numFrames) {
    return (1000 * numFrames) / this.fps;
  }
}
