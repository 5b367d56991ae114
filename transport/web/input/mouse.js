/** Mouse look: maps mouse movement to keys while the pointer is locked to the world. */

const DECAY_MS = 120; // time constant; the keys are released after about two of these
const THRESHOLD_PX = 8; // of decayed movement, from which a key is held
const MAX_PX = 60; // bounds the decayed movement, so that the keys are released soon

export class MouseLook {
  #keys;
  #view;
  #movement = new Movement();
  #enabled = false;
  #isDecaying = false;

  /** view: the element that locks the pointer on a click. */
  constructor(view, keys) {
    this.#keys = keys;
    this.#view = view;
    view.addEventListener("click", (event) => this.#lock(event));
    document.addEventListener("mousemove", (event) => this.#move(event));
    document.addEventListener("pointerlockchange", () => this.#reset());
  }

  set enabled(enabled) {
    this.#enabled = enabled;
    if (!enabled) this.release();
  }

  get isLocked() {
    return document.pointerLockElement === this.#view;
  }

  release() {
    if (this.isLocked) document.exitPointerLock();
  }

  async #lock(event) {
    if (!this.#enabled || this.isLocked || event.pointerType === "touch") return;
    try {
      await this.#view.requestPointerLock();
    } catch {
      // Browsers refuse a lock shortly after Esc. A later click succeeds.
    }
  }

  #move({ movementX, movementY }) {
    if (!this.isLocked) return;
    this.#movement.add(performance.now(), movementX, movementY);
    if (this.#isDecaying) return;
    this.#isDecaying = true;
    this.#hold();
  }

  /** Repeats until the movement has decayed, because a mouse at rest fires no events. */
  #hold() {
    const keys = this.isLocked ? this.#movement.keys(performance.now()) : [];
    this.#keys.hold("mouse", keys);
    this.#isDecaying = keys.length > 0;
    if (this.#isDecaying) requestAnimationFrame(() => this.#hold());
  }

  #reset() {
    if (!this.isLocked) this.#movement = new Movement();
  }
}

/** Recent mouse movement, decaying exponentially. Pure; time is an argument. */
export class Movement {
  #updatedMs = 0;
  #rightPx = 0;
  #downPx = 0;

  add(nowMs, rightPx, downPx) {
    this.#decay(nowMs);
    this.#rightPx = clamp(this.#rightPx + rightPx);
    this.#downPx = clamp(this.#downPx + downPx);
  }

  /** The keys that look in the direction of the movement. */
  keys(nowMs) {
    this.#decay(nowMs);
    const keys = [];
    if (Math.abs(this.#rightPx) >= THRESHOLD_PX) keys.push(this.#rightPx < 0 ? "j" : "l");
    if (Math.abs(this.#downPx) >= THRESHOLD_PX) keys.push(this.#downPx < 0 ? "i" : "k");
    return keys;
  }

  #decay(nowMs) {
    const factor = Math.exp(-(nowMs - this.#updatedMs) / DECAY_MS);
    this.#rightPx *= factor;
    this.#downPx *= factor;
    this.#updatedMs = nowMs;
  }
}

function clamp(distancePx) {
  return Math.min(MAX_PX, Math.max(-MAX_PX, distancePx));
}
