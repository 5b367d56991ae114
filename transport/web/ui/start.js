/** The start screen: which picture, which words, which options. */

import { offerFormats } from "./format.js";
import { readUpload } from "./image.js";

// What is sent with a person's picture where they say nothing. In the field, for them to see: a
// prompt left out, or empty, makes the server use its first opening's, which is of another picture.
const UPLOAD_PROMPT = "A world to walk in";
const ANY_SIZE = "832x480"; // a wish, where the world serves any size: it takes the nearest

export class Start {
  #form = element("setup");
  #prompt = element("prompt");
  #openings = []; // { name, prompt, url, bytes? }: the server's, then the person's own
  #promptIsTheirs = false;
  #onChoose;

  /** onEnter(choice): see #choice. onChoose(url): the picture now chosen, for the backdrop. */
  constructor({ onEnter, onChoose }) {
    this.#onChoose = onChoose;
    offerFormats(element("format"));
    this.#prompt.addEventListener(
      "input",
      () => (this.#promptIsTheirs = this.#prompt.value !== ""),
    );
    element("openings").addEventListener("change", () => this.#chosen());
    element("upload").addEventListener("change", (event) => this.#upload(event.target.files[0]));
    this.#form.addEventListener("dragover", (event) => event.preventDefault());
    this.#form.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#upload(event.dataTransfer.files[0]);
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter(onEnter);
    });
  }

  /** Fills the screen from /v1/world. */
  show(world) {
    world.openings.forEach((opening) => this.#addCard(opening));
    const sizes = world.sizes.map(([width, height]) => `${width}x${height}`);
    element("size").replaceChildren(
      ...(sizes.length > 0 ? sizes : [ANY_SIZE]).map((size) => new Option(size)),
    );
    element("size-label").hidden = sizes.length < 2;
    element("enter").disabled = world.openings.length === 0;
    if (world.openings.length > 0) this.#choose(0);
  }

  notify(text) {
    element("start-notice").textContent = text;
    element("start-notice").hidden = text === "";
  }

  focus() {
    element("enter").focus();
  }

  get #chosenIndex() {
    return Number(new FormData(this.#form).get("opening"));
  }

  async #enter(onEnter) {
    element("enter").disabled = true; // a second click while the picture is fetched
    const choice = await this.#choice().catch(() => null);
    element("enter").disabled = false;
    this.notify(choice === null ? "The picture could not be fetched. Try again in a moment." : "");
    if (choice !== null) onEnter(choice);
  }

  /** { init fields, picture: its URL }; first_frame is left out for the preset's own opening. */
  async #choice() {
    const index = this.#chosenIndex;
    const opening = this.#openings[index];
    const init = {
      size: element("size").value,
      seed: Number(element("seed").value),
      realtime_output_format: element("format").value,
    };
    const prompt = this.#prompt.value.trim() || opening.prompt;
    if (prompt !== "") init.prompt = prompt;
    if (opening.bytes !== undefined) init.first_frame = opening.bytes;
    else if (index > 0) init.first_frame = await download(opening.url);
    return { init, picture: opening.url };
  }

  async #upload(file) {
    if (file === undefined) return;
    try {
      const { bytes, url } = await readUpload(file);
      this.notify("");
      this.#addCard({ name: "Your picture", prompt: UPLOAD_PROMPT, url, bytes });
      this.#choose(this.#openings.length - 1);
      element("enter").disabled = false;
    } catch {
      this.notify(
        `${file.name} is not a picture that this browser can read. PNG, JPEG and WebP work.`,
      );
    }
  }

  #addCard(opening) {
    const card = document.createElement("label");
    const [radio, image, name] = ["input", "img", "span"].map((tag) => document.createElement(tag));
    Object.assign(radio, {
      type: "radio",
      name: "opening",
      value: this.#openings.length,
      className: "unseen",
    });
    Object.assign(image, { src: opening.url, alt: "" });
    name.textContent = opening.name;
    card.className = "card";
    card.append(radio, image, name);
    element("openings").append(card);
    this.#openings.push(opening);
  }

  #choose(index) {
    element("openings").children[index].querySelector("input").checked = true;
    this.#chosen();
  }

  #chosen() {
    const opening = this.#openings[this.#chosenIndex];
    if (!this.#promptIsTheirs) this.#prompt.value = opening.prompt;
    this.#prompt.placeholder = opening.prompt; // what an emptied field means
    this.#onChoose(opening.url);
  }
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

function element(id) {
  return document.getElementById(id);
}
