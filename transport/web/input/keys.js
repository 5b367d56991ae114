/** The set of held keys, from all sources: keyboard, touch, gamepad and mouse. */

// biome-ignore format: a table
const KEY_OF_CODE = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d",
  KeyI: "i", KeyJ: "j", KeyK: "k", KeyL: "l",
  ArrowUp: "i", ArrowLeft: "j", ArrowDown: "k", ArrowRight: "l",
  Numpad8: "i", Numpad4: "j", Numpad2: "k", Numpad6: "l",
};
const TAP_MS = 600; // of a click without a pointer
const ORDER = [..."wasdijkl"];
const TEXT_FIELDS = "textarea, input:not([type=range], [type=radio], [type=file])";
const ARROW_TAKERS = "select, input[type=range], input[type=radio]";

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
    window.addEventListener("keyup", (event) => this.hold(sourceOf(event), []));
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
    const source = sourceOf(event);
    // The letter of a key that is held may change, with the layout of the keyboard.
    const [key] = this.#sources.get(source) ?? [gameKeyOf(event)];
    if (!this.#enabled || key === undefined || isTaken(event)) return;
    event.preventDefault(); // arrows scroll, and W would choose WebP in a list
    // Repeats count too: the first keydown may precede the opening of the world, or a blur.
    this.hold(source, [key]);
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
    button.addEventListener("click", ({ detail }) => {
      if (detail === 0) this.#tap(button.dataset.key); // a screen reader or a switch cannot hold
    });
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // from a long touch
  }

  #tap(key) {
    this.hold(`tap ${key}`, [key]);
    setTimeout(() => this.hold(`tap ${key}`, []), TAP_MS);
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

/**
 * The game key that a keyboard's key stands for, or undefined. Its position counts first, because WASD
 * is a shape; then its letter, because the page names letters.
 */
export function gameKeyOf(event) {
  return KEY_OF_CODE[event.code] ?? ORDER.find((key) => key === letterOf(event));
}

/** The Latin letter of a key, in lower case: what it types, else what QWERTY has there, else "". */
export function letterOf({ code, key }) {
  const [letter] = /^[a-z]$/i.exec(key) ?? /(?<=^Key)[A-Z]$/.exec(code) ?? [""];
  return letter.toLowerCase();
}

/** A key on the screen may have no code. */
function sourceOf(event) {
  return event.code || letterOf(event);
}

/** True if the focused element is a text field, which takes every key. */
export function isTyping({ target }) {
  return isIn(target, TEXT_FIELDS);
}

/** True if the focused control needs this key. A list and a slider need the arrows only. */
function isTaken(event) {
  return isTyping(event) || (event.key.startsWith("Arrow") && isIn(event.target, ARROW_TAKERS));
}

function isIn(target, selector) {
  return target instanceof Element && target.closest(selector) !== null;
}
