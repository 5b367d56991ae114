/** The keys a person holds, from keyboard, mouse and touch alike. */

const KEY_OF_CODE = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d",
  KeyI: "i", KeyJ: "j", KeyK: "k", KeyL: "l",
  ArrowUp: "i", ArrowLeft: "j", ArrowDown: "k", ArrowRight: "l",
}; // prettier-ignore
const ORDER = [..."wasdijkl"];

export class Keys {
  #sources = new Map(); // what holds a key ("KeyI", "ArrowUp", "pointer 3") to the key
  #enabled = false;
  #onChange;
  #buttons;

  held = []; // in the order of "wasdijkl"

  /** onChange(held): on every change of the held set. Buttons carry their key in data-key. */
  constructor(buttons, onChange) {
    this.#onChange = onChange;
    this.#buttons = buttons;
    buttons.forEach((button) => this.#listenTo(button));
    window.addEventListener("keydown", (event) => this.#keyDown(event));
    window.addEventListener("keyup", (event) => this.#release(event.code));
    window.addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.releaseAll();
    });
  }

  set enabled(enabled) {
    this.#enabled = enabled;
    if (!enabled) this.releaseAll();
  }

  releaseAll() {
    this.#sources.clear();
    this.#update();
  }

  #keyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      this.releaseAll(); // a shortcut may take the focus, and with it the keyup
      return;
    }
    const key = KEY_OF_CODE[event.code];
    if (!this.#enabled || key === undefined || isTyping(event.target)) return;
    event.preventDefault(); // arrows scroll
    // A repeat too: the first keydown may have come before the world opened, or before a blur.
    this.#press(event.code, key);
  }

  #listenTo(button) {
    const release = (event) => this.#release(`pointer ${event.pointerId}`);
    button.addEventListener("pointerdown", (event) => {
      if (!this.#enabled || event.button !== 0) return;
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.#press(`pointer ${event.pointerId}`, button.dataset.key);
    });
    button.addEventListener("lostpointercapture", release);
    button.addEventListener("pointerup", release);
    button.addEventListener("pointercancel", release);
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
  }

  #press(source, key) {
    this.#sources.set(source, key);
    this.#update();
  }

  #release(source) {
    if (this.#sources.delete(source)) this.#update();
  }

  #update() {
    const now = new Set(this.#sources.values());
    const held = ORDER.filter((key) => now.has(key));
    if (held.join() === this.held.join()) return;
    this.held = held;
    for (const button of this.#buttons) {
      button.setAttribute("aria-pressed", String(now.has(button.dataset.key)));
    }
    this.#onChange(held);
  }
}

export function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select") !== null;
}
