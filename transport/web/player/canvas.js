/** The world's canvas, and the blurred glow behind it. */

const GLOW_PERIOD_FRAMES = 4;
const GLOW_ALPHA = 0.3; // weight of a new frame over the older ones
const PREVIEW_HEIGHT_PX = 120;

export class Canvas {
  #screen; // the page's canvas
  #world; // frames in their own size: the page's canvas, unless they are enlarged here
  #glow;
  #numPainted = 0;
  #shown = null; // { chunkIndex, frameIndex } of the frame on the canvas

  recording = null; // takes the frames that are painted; null without one

  constructor({ world, glow }) {
    this.#screen = world.getContext("2d", { alpha: false });
    this.#world = this.#screen;
    this.#glow = glow.getContext("2d", { alpha: false });
    this.#glow.globalAlpha = GLOW_ALPHA;
  }

  get size() {
    const { width, height } = this.#world.canvas;
    return { width, height };
  }

  /** From now on, enlarges frames to this many pixels. Without a call, the page's CSS does. */
  enlarge({ width, height }) {
    const { canvas } = this.#screen;
    if (this.#world === this.#screen) {
      this.#world = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {
        alpha: false,
      });
      this.#world.drawImage(canvas, 0, 0);
    }
    if (canvas.width !== width || canvas.height !== height)
      Object.assign(canvas, { width, height });
    this.#project();
  }

  /** Paints a frame in its own size. */
  paintFrame({ image, chunkIndex, frameIndex }) {
    this.#fill(image);
    this.recording?.add(this.#world.canvas, performance.now());
    this.#shown = { chunkIndex, frameIndex };
    if (this.#numPainted++ % GLOW_PERIOD_FRAMES === 0) {
      const { width, height } = this.#glow.canvas;
      this.#glow.drawImage(this.#world.canvas, 0, 0, width, height);
    }
  }

  /** Paints an image that is not a generated frame. */
  paintImage(image) {
    this.#fill(image);
    this.#shown = null;
  }

  /** The frame on the canvas, { chunkIndex, frameIndex, width, height, data: RGBA }, or null. */
  readFrame() {
    if (this.#shown === null) return null;
    const { width, height } = this.#world.canvas;
    // A canvas that is read often moves to the CPU, so read a copy of it.
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(this.#world.canvas, 0, 0);
    return { ...this.#shown, width, height, data: copy.getImageData(0, 0, width, height).data };
  }

  /** Resolves to a PNG of what is on the canvas. */
  takePicture() {
    return this.#world.canvas.convertToBlob({ type: "image/png" });
  }

  /**
   * Resolves to an ImageBitmap of what is on the canvas, PREVIEW_HEIGHT_PX high. A smaller canvas, or
   * `convertToBlob`, would block this worker in Chromium until the page's thread has time.
   */
  makePreview() {
    const { canvas } = this.#world;
    const resizeWidth = Math.max(1, Math.round((canvas.width * PREVIEW_HEIGHT_PX) / canvas.height));
    const size = { resizeWidth, resizeHeight: PREVIEW_HEIGHT_PX };
    return createImageBitmap(canvas, { ...size, resizeQuality: "medium" });
  }

  #fill(image) {
    const { canvas } = this.#world;
    if (canvas.width !== image.width || canvas.height !== image.height) {
      Object.assign(canvas, { width: image.width, height: image.height }); // this clears it
    }
    if (image instanceof ImageData) this.#world.putImageData(image, 0, 0);
    else this.#world.drawImage(image, 0, 0);
    if (this.#world !== this.#screen) this.#project();
  }

  #project() {
    const { width, height } = this.#screen.canvas;
    this.#screen.drawImage(this.#world.canvas, 0, 0, width, height);
  }
}
