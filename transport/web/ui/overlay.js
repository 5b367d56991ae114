/** Messages over the world: a card when no session is playing, a toast when one is. */

const TOAST_MS = 6000;

export class Card {
  /** Shows a state of waiting or, with `ended`, the reason why the session ended. */
  show({ title, text, detail = "", ended = false }) {
    element("card-title").textContent = title;
    element("card-text").textContent = text;
    write("card-detail", detail);
    write("card-retry", "");
    element("card-actions").hidden = !ended;
    element("card").hidden = false;
  }

  /** Announces the next automatic attempt. */
  announceRetry(text) {
    write("card-retry", text);
  }

  hide() {
    element("card").hidden = true;
  }
}

export class Toast {
  #timer = 0;

  show(text) {
    clearTimeout(this.#timer);
    write("toast", text);
    this.#timer = setTimeout(() => this.hide(), TOAST_MS);
  }

  hide() {
    clearTimeout(this.#timer);
    write("toast", "");
  }
}

function write(id, text) {
  element(id).textContent = text;
  element(id).hidden = text === "";
}

function element(id) {
  return document.getElementById(id);
}
