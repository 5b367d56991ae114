/** The strip of moments to which a world can be turned back. */

import { formatClock } from "./notices.js";

const MAX_S = 120; // of the world's own time

export class Timeline {
  #list = document.getElementById("moments");
  #onChoose;
  #moments = []; // { chunkIndex, seconds, clock, image, url, item }, oldest first

  /** onChoose(chunkIndex): called with the chunk before which the user wants to be. */
  constructor(onChoose) {
    this.#onChoose = onChoose;
    this.#list.addEventListener("keydown", (event) => this.#keyDown(event));
    document.getElementById("timeline").addEventListener("toggle", () => this.#scrollToEnd());
  }

  /** A JPEG of the newest moment, or null. */
  get newestImage() {
    return this.#moments.at(-1)?.image ?? null;
  }

  /** The chunk of the oldest moment, or infinity without one. */
  get earliest() {
    return this.#moments[0]?.chunkIndex ?? Number.POSITIVE_INFINITY;
  }

  /**
   * Of two moments with the same time on the clock, only the first is shown.
   *
   * seconds: the world's time at the start of the chunk. image: a JPEG of its first frame.
   */
  add({ chunkIndex, seconds, image }) {
    this.truncate(chunkIndex);
    const clock = formatClock(seconds);
    if (this.#moments.at(-1)?.clock === clock) return;
    const url = URL.createObjectURL(image);
    const item = this.#makeItem(chunkIndex, clock, url);
    const isAtEnd = this.#list.scrollLeft + this.#list.clientWidth >= this.#list.scrollWidth - 4;
    this.#moments.push({ chunkIndex, seconds, clock, image, url, item });
    this.#list.append(item);
    while (this.#moments[0].seconds < seconds - MAX_S) this.#remove(0);
    if (isAtEnd) this.#scrollToEnd();
    this.#setTabStop();
  }

  /** Removes the moments from this chunk on, because they have not happened. */
  truncate(chunkIndex) {
    while (this.#moments.length > 0 && this.#moments.at(-1).chunkIndex >= chunkIndex) {
      this.#remove(this.#moments.length - 1);
    }
    this.#setTabStop();
  }

  /** Removes the moments up to this chunk, because the server keeps them no more. */
  dropUntil(chunkIndex) {
    while (this.earliest <= chunkIndex) this.#remove(0);
    this.#setTabStop();
  }

  clear() {
    this.truncate(0);
  }

  #makeItem(chunkIndex, clock, url) {
    const [item, button, image, text] = ["li", "button", "img", "span"].map((tag) =>
      document.createElement(tag),
    );
    Object.assign(image, { src: url, alt: "" });
    text.textContent = clock;
    Object.assign(button, { type: "button", tabIndex: -1 });
    button.setAttribute("aria-label", `Go back to ${clock}`);
    button.addEventListener("click", () => this.#onChoose(chunkIndex));
    button.append(image, text);
    item.append(button);
    return item;
  }

  /** Keeps the focus in the strip if the moment that has it goes. */
  #remove(at) {
    const [{ item, url }] = this.#moments.splice(at, 1);
    const hadFocus = item.contains(document.activeElement);
    item.remove();
    URL.revokeObjectURL(url);
    if (hadFocus) this.#focus(at);
  }

  /** One moment at a time is a tab stop: the focused one, or the newest. */
  #setTabStop() {
    const buttons = this.#buttons;
    const stop = buttons.find((button) => button === document.activeElement) ?? buttons.at(-1);
    for (const button of buttons) button.tabIndex = button === stop ? 0 : -1;
  }

  #keyDown(event) {
    const at = this.#buttons.indexOf(document.activeElement);
    const last = this.#moments.length - 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // the arrows would turn the view
    this.#focus(to);
    this.#setTabStop();
  }

  #focus(at) {
    this.#buttons[Math.min(Math.max(0, at), this.#moments.length - 1)]?.focus();
  }

  get #buttons() {
    return this.#moments.map(({ item }) => item.firstChild);
  }

  #scrollToEnd() {
    this.#list.scrollLeft = this.#list.scrollWidth;
  }
}
