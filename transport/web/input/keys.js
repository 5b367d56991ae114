/** The set of held keys, from all sources: keyboard, touch, gamepad and mouse. */

// biome-ignore format: a table
const KEY_OF_CODE = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d",
  KeyI: "i", KeyJ: "j", KeyK: "k", KeyL: "l",
  ArrowUp: "i", ArrowLeft: "j", ArrowDown: "k", ArrowRight: "l",
};
const ORDER = [..."wasdijkl"];

export class Keys {
  #sources = new Map(); // source ("KeyI", "pointer 3", "gamepad") to the keys it holds
  #enabled = false;
  #onChange;
  #buttons;

  held = []; // in the order of "wasdijkl"

  /** onChange(held): called when the set of held keys changes. Buttons carry a key in data-key. */
  constructor(buttons, onChange) {
    this.#onChange = onChange;
    this.#buttons = buttons;
    for (const button of buttons) this.#listenTo(button);
    window.addEventListener("keydown", (event) => this.#keyDown(event));
    window.addEventListener("keyup", (event) => this.hold(event.code, []));
    window.addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.releaseAll();
    });
  }

  set enabled(enabled) {
    this.#enabled = enabled;
    if (!enabled) this.releaseAll();
  }

  /** Replaces the keys that `source` holds. */
  hold(source, keys) {
    if (this.#enabled && keys.length > 0) this.#sources.set(source, keys);
    else this.#sources.delete(source);
    this.#update();
  }

  releaseAll() {
    this.#sources.clear();
    this.#update();
  }

  #keyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      this.releaseAll(); // a shortcut may take the focus, and the keyup with it
      return;
    }
    const key = KEY_OF_CODE[event.code];
    if (!this.#enabled || key === undefined || isTyping(event)) return;
    event.preventDefault(); // arrows scroll
    // Repeats count too: the first keydown may precede the opening of the world, or a blur.
    this.hold(event.code, [key]);
  }

  #listenTo(button) {
    const release = (event) => this.hold(`pointer ${event.pointerId}`, []);
    button.addEventListener("pointerdown", (event) => {
      if (!this.#enabled || event.button !== 0) return;
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.hold(`pointer ${event.pointerId}`, [button.dataset.key]);
    });
    button.addEventListener("lostpointercapture", release);
    button.addEventListener("pointerup", release);
    button.addEventListener("pointercancel", release);
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // from a long touch
  }

  #update() {
    const now = new Set([...this.#sources.values()].flat());
    const held = ORDER.filter((key) => now.has(key));
    if (held.join() === this.held.join()) return;
    this.held = held;
    for (const button of this.#buttons) {
      button.setAttribute("aria-pressed", String(now.has(button.dataset.key)));
    }
    this.#onChange(held);
  }
}

/** True if the focused field takes this key. A slider takes only the arrows. */
export function isTyping({ target, code }) {
  if (!(target instanceof Element)) return false;
  const field = target.closest("input, textarea, select");
  return field !== null && (field.type !== "range" || code.startsWith("Arrow"));
}
