/** The playout clock: frames in, one frame out when it is due. Pure; time is an argument. */

const HASTE = 1.1; // the most by which a long queue is played faster
const LONG = 1.5; // chunks in the queue from which playing is hastened, until one is left
const FULL = 3; // chunks; beyond, the oldest are dropped (a hidden tab shows nothing)

export class Playback {
  #queue = [];
  #due = null; // ms; when the next frame's turn comes; null before the first frame
  #hasty = false;
  #onDrop;

  fps;
  chunkFrames;
  numShown = 0;
  numLate = 0; // frame times that passed with nothing to show
  numDropped = 0;

  /** onDrop(frame): called for each frame that will never be shown. */
  constructor({ fps, chunkFrames, onDrop }) {
    this.fps = fps;
    this.chunkFrames = chunkFrames;
    this.#onDrop = onDrop;
  }

  get length() {
    return this.#queue.length;
  }

  push(frames) {
    this.#queue.push(...frames);
    if (this.length > FULL * this.chunkFrames) this.#drop(this.length - this.chunkFrames);
  }

  /** The frame whose turn it is at `now` (ms), or null. */
  take(now) {
    if (this.length === 0 || (this.#due !== null && now < this.#due)) return null;
    if (this.length > LONG * this.chunkFrames) this.#hasty = true;
    else if (this.length <= this.chunkFrames) this.#hasty = false;
    const frameTime = 1000 / this.fps / (this.#hasty ? HASTE : 1);
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

  clear() {
    this.#queue.splice(0).forEach(this.#onDrop);
  }

  #drop(num) {
    this.#queue.splice(0, num).forEach(this.#onDrop);
    this.numDropped += num;
  }
}
