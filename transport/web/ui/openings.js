/** The cards of the start screen: the server's openings and the user's pictures. */

export class Openings {
  #list = document.getElementById("openings");
  #openings = new Map(); // by the value of its radio button
  #numAdded = 0;
  #numUploads = 0;
  #onChange;

  /** onChange(): called when another card is chosen, and when the chosen one is removed. */
  constructor(onChange) {
    this.#onChange = onChange;
    this.#list.addEventListener("change", onChange);
  }

  /** What was given to `add` or `addUpload` for the chosen card, or null. */
  get chosen() {
    const radio = this.#list.querySelector(":checked");
    return radio === null ? null : this.#openings.get(radio.value);
  }

  /** Adds a card: { name, prompt, url, ... }. The first one is chosen. */
  add(opening) {
    const card = this.#makeCard(opening);
    this.#list.append(card);
    if (this.chosen === null) this.#choose(card);
  }

  /** Adds a card that can be removed, and chooses it. */
  addUpload(upload) {
    this.#numUploads += 1;
    const number = this.#numUploads === 1 ? "" : ` ${this.#numUploads}`;
    const opening = { ...upload, name: `Your picture${number}` };
    const card = document.createElement("div");
    card.className = "removable";
    card.append(this.#makeCard(opening), this.#makeRemove(opening, card));
    this.#list.append(card);
    this.#choose(card);
    card.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #makeCard(opening) {
    const [label, radio, image, name] = ["label", "input", "img", "span"].map((tag) =>
      document.createElement(tag),
    );
    const value = String(this.#numAdded++);
    Object.assign(radio, { type: "radio", name: "opening", value, className: "visually-hidden" });
    Object.assign(image, { src: opening.url, alt: "" });
    name.textContent = opening.name;
    label.className = "card";
    label.append(radio, image, name);
    this.#openings.set(value, opening);
    return label;
  }

  #makeRemove(opening, card) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "remove", textContent: "×" });
    button.title = `Remove ${opening.name.toLowerCase()}`;
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => this.#remove(card));
    return button;
  }

  #choose(card) {
    card.querySelector("input").checked = true;
    this.#onChange();
  }

  /** The card before it is chosen, or the one after it. */
  #remove(card) {
    const radio = card.querySelector("input");
    const next = card.previousElementSibling ?? card.nextElementSibling;
    const { url } = this.#openings.get(radio.value);
    this.#openings.delete(radio.value);
    card.remove();
    if (radio.checked && next !== null) next.querySelector("input").checked = true;
    this.#onChange();
    URL.revokeObjectURL(url);
    (this.#list.querySelector(":checked") ?? document.getElementById("upload")).focus();
  }
}
