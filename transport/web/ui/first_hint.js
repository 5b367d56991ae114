/** The line on the picture that says how to walk. It stays until a key was held in this visit. */

export class FirstHint {
  #line = document.getElementById("first-hint");
  #isLearned = false;

  show() {
    if (this.#isLearned) return;
    const key = document.createElement("kbd");
    const isTouch = matchMedia("(pointer: coarse)").matches;
    key.textContent = isTouch ? "Walk forward" : "W";
    this.#line.replaceChildren("Hold ", key, isTouch ? "" : " to walk");
    this.#line.hidden = false;
  }

  /** The world is not open. */
  hide() {
    this.#line.hidden = true;
  }

  /** A key was held. */
  learn() {
    this.#isLearned = true;
    this.hide();
  }
}
