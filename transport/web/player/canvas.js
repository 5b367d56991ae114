/** What is painted on: the world's canvas, and the glow behind it. */

const GLOW_EVERY = 4; // frames
const GLOW_ALPHA = 0.3; // of a new frame over the old ones

export class Surface {
  #world;
  #glow;
  #numPainted = 0;
  #last = null; // which frame is on the canvas: { chunkIndex, frameIndex }

  constructor({ world, glow }) {
    this.#world = world.getContext("2d", { alpha: false });
    this.#glow = glow.getContext("2d", { alpha: false });
    this.#glow.globalAlpha = GLOW_ALPHA;
  }

  /** Paints a frame in its own size; the page's CSS scales the canvas. */
  paint({ picture, chunkIndex, frameIndex }) {
    this.#fill(picture);
    this.#last = { chunkIndex, frameIndex };
    if (this.#numPainted++ % GLOW_EVERY === 0) {
      const { width, height } = this.#glow.canvas;
      this.#glow.drawImage(this.#world.canvas, 0, 0, width, height);
    }
  }

  /** Paints a picture that is no frame of a walk. */
  cover(picture) {
    this.#fill(picture);
    this.#last = null;
  }

  /** The frame on the canvas, { chunkIndex, frameIndex, width, height, data: RGBA }, or null. */
  read() {
    if (this.#last === null) return null;
    const { width, height } = this.#world.canvas;
    // A canvas that is read often moves to the CPU: read a copy, not the one on the screen.
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(this.#world.canvas, 0, 0);
    return { ...this.#last, width, height, data: copy.getImageData(0, 0, width, height).data };
  }

  #fill(picture) {
    const { canvas } = this.#world;
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      Object.assign(canvas, { width: picture.width, height: picture.height }); // clears it, too
    }
    if (picture instanceof ImageData) this.#world.putImageData(picture, 0, 0);
    else this.#world.drawImage(picture, 0, 0);
  }
}
