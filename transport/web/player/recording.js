/** A recording: takes the frames that are shown, and gives a file with a duration that seeks. */

import { openEncoder } from "./recording_encoder.js";

const MAX_GAP_MS = 1000; // a pause of the world, or of a hidden page, lasts no longer in the file
const KEY_PERIOD_MS = 2000; // players seek to key frames
const MAX_QUEUED = 8; // frames in the encoder; a slow one misses some
const MAX_BYTES = 512 * 2 ** 20; // the file stays in memory until its end

export class Recording {
  #encoder;
  #copy; // the recording's own canvas: its size stays when the world's changes
  #onSecond;
  #onEnd;
  #fps;
  #mediaMs = 0; // time of the last frame in the file
  #lastMs = null; // when it was shown
  #lastKeyMs = Number.NEGATIVE_INFINITY;
  #numSeconds = 0;

  /**
   * Resolves to a recording of frames of this size. Later frames of another size are scaled to it.
   * onSecond(seconds): called with the recording's length. onEnd(): it can take no more frames.
   */
  static async open(size, { fps, canEncode, onSecond, onEnd }) {
    const [width, height] = [size.width, size.height].map((side) => 2 * Math.ceil(side / 2));
    const encoder = await openEncoder({ width, height, fps, canEncode });
    return new Recording(encoder, new OffscreenCanvas(width, height), { fps, onSecond, onEnd });
  }

  constructor(encoder, copy, { fps, onSecond, onEnd }) {
    this.#encoder = encoder;
    this.#copy = copy.getContext("2d", { alpha: false });
    this.#fps = fps;
    this.#onSecond = onSecond;
    this.#onEnd = onEnd;
  }

  get extension() {
    return this.#encoder.extension;
  }

  /** Adds what is on the canvas, shown at `nowMs`. */
  add(canvas, nowMs) {
    const encoder = this.#encoder;
    if (encoder.error !== null || encoder.numBytes > MAX_BYTES) {
      this.#onEnd();
      return;
    }
    if (encoder.numQueued >= MAX_QUEUED) return;
    if (this.#lastMs !== null) this.#mediaMs += Math.min(nowMs - this.#lastMs, MAX_GAP_MS);
    this.#lastMs = nowMs;
    const { width, height } = this.#copy.canvas;
    this.#copy.drawImage(canvas, 0, 0, width, height);
    const keyFrame = this.#mediaMs - this.#lastKeyMs >= KEY_PERIOD_MS;
    if (keyFrame) this.#lastKeyMs = this.#mediaMs;
    const timestamp = Math.round(1000 * this.#mediaMs);
    const duration = Math.round(1e6 / this.#fps);
    try {
      encoder.add(this.#copy.canvas, { timestamp, duration, keyFrame });
    } catch {
      this.#onEnd(); // the encoder has closed itself
      return;
    }
    this.#announce();
  }

  /** Resolves to the file, or null if no frame could be encoded. */
  finish() {
    return this.#encoder.finish();
  }

  #announce() {
    const seconds = Math.floor(this.#mediaMs / 1000);
    if (seconds === this.#numSeconds) return;
    this.#numSeconds = seconds;
    this.#onSecond(seconds);
  }
}
