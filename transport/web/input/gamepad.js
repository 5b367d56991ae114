/** Maps the sticks and d-pads of gamepads to keys. Gamepads fire no events, so they are polled. */

const DEAD_ZONE = 0.35; // of a stick's full deflection

// Indices of the standard mapping.
const AXES = [
  // axis, its key towards -1, its key towards +1
  [0, "a", "d"],
  [1, "w", "s"],
  [2, "j", "l"],
  [3, "i", "k"],
];
const BUTTONS = [
  // button, its key
  [12, "w"],
  [13, "s"],
  [14, "a"],
  [15, "d"],
];

export class Gamepad {
  #keys;
  #enabled = false;
  #isPolling = false;

  constructor(keys) {
    this.#keys = keys;
    window.addEventListener("gamepadconnected", () => this.#startPolling());
  }

  set enabled(enabled) {
    this.#enabled = enabled;
    this.#startPolling();
  }

  #startPolling() {
    if (this.#isPolling) return;
    this.#isPolling = true;
    this.#poll();
  }

  #poll() {
    const pads = [...navigator.getGamepads()].filter((pad) => pad?.connected);
    // Without the focus, the gamepad belongs to another window.
    this.#keys.hold("gamepad", document.hasFocus() ? keysOf(pads) : []);
    this.#isPolling = this.#enabled && pads.length > 0;
    if (this.#isPolling) requestAnimationFrame(() => this.#poll());
  }
}

/** The keys that these gamepads hold, without repetitions. */
function keysOf(pads) {
  const held = pads.flatMap(({ axes, buttons }) => [
    ...AXES.map(([axis, low, high]) => {
      const deflection = axes[axis] ?? 0;
      return Math.abs(deflection) < DEAD_ZONE ? null : deflection < 0 ? low : high;
    }),
    ...BUTTONS.map(([button, key]) => (buttons[button]?.pressed ? key : null)),
  ]);
  return [...new Set(held)].filter((key) => key !== null);
}
