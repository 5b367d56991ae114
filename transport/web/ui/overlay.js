/** What is said over the picture: a card where there is no walk, a toast where there is one. */

const TOAST_MS = 6000;

export class Card {
  /** What is awaited or, with `over`, why the walk ended. */
  show({ title, text, said = "", over = false }) {
    element("card-title").textContent = title;
    element("card-text").textContent = text;
    write("card-said", said);
    write("card-next", "");
    element("card-actions").hidden = !over;
    element("card").hidden = false;
  }

  /** What will happen by itself. */
  announce(text) {
    write("card-next", text);
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
