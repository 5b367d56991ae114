/** The line on the picture that says how to walk. It is shown once in a visit, until a key is held. */

const SHOWN_MS = 30_000;

export class FirstHint {
  #line = document.getElementById("first-hint");
  #timer = 0;
  #wasShown = false;

  show() {
    if (this.#wasShown) return;
    this.#wasShown = true;
    const key = document.createElement("kbd");
    const isTouch = matchMedia("(pointer: coarse)").matches;
    key.textContent = isTouch ? "Walk forward" : "W";
    this.#line.replaceChildren("Hold ", key, isTouch ? "" : " to walk");
    this.#line.hidden = false;
    this.#timer = setTimeout(() => this.hide(), SHOWN_MS);
  }

  /** A key was held, or the walk is over. */
  hide() {
    clearTimeout(this.#timer);
    this.#line.hidden = true;
  }
}
