/** Gamepads: sticks and d-pad to keys. They tell nothing by themselves, so they are asked. */

const DEAD_ZONE = 0.35; // of a stick's way

// Of the standard mapping: an axis and its keys towards -1 and +1, a button and its key.
const AXES = [[0, "a", "d"], [1, "w", "s"], [2, "j", "l"], [3, "i", "k"]]; // prettier-ignore
const BUTTONS = [[12, "w"], [13, "s"], [14, "a"], [15, "d"]]; // prettier-ignore

export class Gamepad {
  #keys;
  #enabled = false;
  #isPolling = false;

  constructor(keys) {
    this.#keys = keys;
    window.addEventListener("gamepadconnected", () => this.#poll());
  }

  set enabled(enabled) {
    this.#enabled = enabled;
    this.#poll();
  }

  #poll() {
    if (this.#isPolling) return;
    this.#isPolling = true;
    this.#look();
  }

  #look() {
    const pads = [...navigator.getGamepads()].filter((pad) => pad?.connected);
    // Another window's game is played with the same pad.
    this.#keys.hold("gamepad", document.hasFocus() ? keysOf(pads) : []);
    this.#isPolling = this.#enabled && pads.length > 0;
    if (this.#isPolling) requestAnimationFrame(() => this.#look());
  }
}

/** The keys that these pads hold. */
export function keysOf(pads) {
  const held = pads.flatMap(({ axes, buttons }) => [
    ...AXES.map(([axis, low, high]) => {
      const at = axes[axis] ?? 0;
      return Math.abs(at) < DEAD_ZONE ? null : at < 0 ? low : high;
    }),
    ...BUTTONS.map(([button, key]) => (buttons[button]?.pressed ? key : null)),
  ]);
  return [...new Set(held)].filter((key) => key !== null);
}
