/** Looking with the mouse: its movement, while the picture has caught it, to keys. */

const FADE_MS = 120; // a movement that stops is over in about two of these
const ENOUGH = 8; // px of movement, not yet faded, from which a key is held
const MOST = 60; // px; however far the mouse went, it stops soon

export class MouseLook {
  #keys;
  #view;
  #movement = new Movement();
  #enabled = false;
  #isFading = false;

  /** view: the element that catches the mouse on a click. */
  constructor(view, keys) {
    this.#keys = keys;
    this.#view = view;
    view.addEventListener("click", (event) => this.#catch(event));
    document.addEventListener("mousemove", (event) => this.#move(event));
    document.addEventListener("pointerlockchange", () => this.#drop());
  }

  set enabled(enabled) {
    this.#enabled = enabled;
    if (!enabled) this.release();
  }

  get isCaught() {
    return document.pointerLockElement === this.#view;
  }

  release() {
    if (this.isCaught) document.exitPointerLock();
  }

  async #catch(event) {
    if (!this.#enabled || this.isCaught || event.pointerType === "touch") return;
    try {
      await this.#view.requestPointerLock();
    } catch {
      // Soon after Esc browsers refuse: the next click will do.
    }
  }

  #move({ movementX, movementY }) {
    if (!this.isCaught) return;
    this.#movement.add(performance.now(), movementX, movementY);
    if (this.#isFading) return;
    this.#isFading = true;
    this.#hold();
  }

  /** Until it has faded; a mouse at rest tells nothing. */
  #hold() {
    const keys = this.isCaught ? this.#movement.keys(performance.now()) : [];
    this.#keys.hold("mouse", keys);
    this.#isFading = keys.length > 0;
    if (this.#isFading) requestAnimationFrame(() => this.#hold());
  }

  #drop() {
    if (!this.isCaught) this.#movement = new Movement();
  }
}

/** How far the mouse went of late. Pure; time is an argument. */
export class Movement {
  #at = 0; // ms
  #across = 0; // px to the right
  #down = 0;

  add(now, across, down) {
    this.#fade(now);
    this.#across = clamp(this.#across + across);
    this.#down = clamp(this.#down + down);
  }

  /** The keys that look where it goes. */
  keys(now) {
    this.#fade(now);
    const keys = [];
    if (Math.abs(this.#across) >= ENOUGH) keys.push(this.#across < 0 ? "j" : "l");
    if (Math.abs(this.#down) >= ENOUGH) keys.push(this.#down < 0 ? "i" : "k");
    return keys;
  }

  #fade(now) {
    const left = Math.exp(-(now - this.#at) / FADE_MS);
    this.#across *= left;
    this.#down *= left;
    this.#at = now;
  }
}

function clamp(distance) {
  return Math.min(MOST, Math.max(-MOST, distance));
}
