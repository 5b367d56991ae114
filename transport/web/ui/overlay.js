/** Messages over the world: a card when no session is playing, a toast and a countdown when one is. */

import { announce } from "./announcer.js";

const TOAST_MS = 6000;

export class Card {
  /**
   * Shows a state of waiting, with `resting` without a spinner, or with `ended` the reason why the
   * session ended.
   */
  show({ title, text, detail = "", resting = false, ended = false }) {
    element("card-title").textContent = title;
    element("card-text").textContent = text;
    write("card-detail", detail);
    write("card-retry", "");
    element("card-actions").hidden = !ended;
    element("spinner").hidden = resting || ended;
    element("card").hidden = false;
    announce([title, text, detail].filter((part) => part !== "").join(" – "));
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
    this.keep(text);
    this.#timer = setTimeout(() => this.hide(), TOAST_MS);
  }

  /** Shows a text until the next one, or until `hide`. */
  keep(text) {
    clearTimeout(this.#timer);
    write("toast", text);
    announce(text);
  }

  /** As `keep`, with a link that opens a new tab. */
  keepLink(text, { name, url }) {
    this.keep(`${text} `);
    const link = Object.assign(document.createElement("a"), { href: url, target: "_blank" });
    link.textContent = name;
    element("toast").append(link);
  }

  hide() {
    clearTimeout(this.#timer);
    write("toast", "");
  }
}

/** Counts the seconds to the end of the session. */
export class Countdown {
  #timer = 0;

  /** describe(seconds): the sentence for so many seconds left. */
  start(seconds, describe) {
    announce(describe(seconds));
    this.#count(seconds, describe);
  }

  stop() {
    clearTimeout(this.#timer);
    write("ending", "");
  }

  #count(seconds, describe) {
    clearTimeout(this.#timer);
    write("ending", describe(seconds));
    if (seconds > 1) this.#timer = setTimeout(() => this.#count(seconds - 1, describe), 1000);
  }
}

function write(id, text) {
  element(id).textContent = text;
  element(id).hidden = text === "";
}

function element(id) {
  return document.getElementById(id);
}
