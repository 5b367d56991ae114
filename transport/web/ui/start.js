/** The start screen: opening image, prompt and options. */

import { offerFormats } from "./format.js";
import { isPicture, nearestShape, readUpload } from "./image.js";

// The default prompt of an upload. The field shows it, because the server replaces a missing or
// empty prompt by that of its first opening, which describes another image.
const UPLOAD_PROMPT = "A world to walk in";
const ANY_SIZE = "832x480"; // requested if the world serves any size; the server takes the nearest
// An init holds 16 MiB by default. Its other fields need little.
const MAX_WORLD_BYTES = 16 * 2 ** 20 - 2 ** 16;
const NO_OPENING = "This world has no picture of its own. Use yours to begin.";

export class Start {
  #form = element("setup");
  #prompt = element("prompt");
  #openings = []; // { name, prompt, url, bytes? }: those of the server, then the uploads
  #promptIsEdited = false;
  #sizes = []; // [width, height] each
  #onChoose;
  #onOpen;

  /**
   * onEnter(choice): see #choice. onOpen(file): called with a saved world.
   * onChoose(url): called with the chosen image.
   */
  constructor({ onEnter, onOpen, onChoose }) {
    this.#onChoose = onChoose;
    this.#onOpen = onOpen;
    offerFormats(element("format"));
    this.#prompt.addEventListener("input", () => {
      this.#promptIsEdited = this.#prompt.value !== "";
    });
    element("openings").addEventListener("change", () => this.#update());
    element("upload").addEventListener("change", (event) => this.#upload(event.target.files[0]));
    element("open").addEventListener("change", (event) => this.#open(event.target));
    element("start").addEventListener("dragover", (event) => event.preventDefault());
    element("start").addEventListener("drop", (event) => {
      event.preventDefault();
      this.#drop(event.dataTransfer.files[0]);
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter(onEnter);
    });
  }

  /** Fills the screen from the answer of /v1/world. */
  show(world) {
    for (const opening of world.openings) this.#addCard(opening);
    const sizes = world.sizes.map(([width, height]) => `${width}x${height}`);
    element("size").replaceChildren(
      ...(sizes.length > 0 ? sizes : [ANY_SIZE]).map((size) => new Option(size)),
    );
    this.#sizes = world.sizes;
    if (sizes.length > 1) element("size").prepend(new Option("as the picture", "", true, true));
    element("size-label").hidden = sizes.length < 2;
    element("open").disabled = false;
    element("enter").disabled = world.openings.length === 0;
    if (world.openings.length > 0) this.#choose(0);
    else this.notify(NO_OPENING);
  }

  notify(text) {
    element("start-notice").textContent = text;
    element("start-notice").hidden = text === "";
  }

  focus() {
    element("enter").focus();
  }

  /** The fields of an init that say how frames travel. */
  get output() {
    return { realtime_output_format: element("format").value };
  }

  get #chosenIndex() {
    return Number(new FormData(this.#form).get("opening"));
  }

  async #enter(onEnter) {
    element("enter").disabled = true; // against a second click during the download
    const choice = await this.#choice().catch(() => null);
    element("enter").disabled = false;
    this.notify(choice === null ? "The picture could not be fetched. Try again in a moment." : "");
    if (choice !== null) onEnter(choice);
  }

  /** What to enter: see Walk. The preset's own opening needs no first_frame. */
  async #choice() {
    const index = this.#chosenIndex;
    const opening = this.#openings[index];
    const size = element("size").value || (await nearestShape(opening.url, this.#sizes));
    const fields = { size, seed: Number(element("seed").value) };
    const prompt = this.#prompt.value.trim() || opening.prompt;
    if (prompt !== "") fields.prompt = prompt;
    if (opening.bytes !== undefined) fields.first_frame = opening.bytes;
    else if (index > 0) fields.first_frame = await download(opening.url);
    return { kind: "opening", fields, output: this.output, prompt, size, imageUrl: opening.url };
  }

  async #drop(file) {
    if (file === undefined) return;
    if (await isPicture(file)) this.#upload(file);
    else this.#openWorld(file);
  }

  #open(input) {
    const [file] = input.files;
    input.value = ""; // the same file may be chosen again
    if (file !== undefined) this.#openWorld(file);
  }

  #openWorld(file) {
    if (element("open").disabled) return; // the server has not answered yet, as a line says
    if (file.size > MAX_WORLD_BYTES) {
      const mebibytes = Math.ceil(file.size / 2 ** 20);
      this.notify(`${file.name} has ${mebibytes} MiB. A saved world has less than 16.`);
      return;
    }
    this.notify("");
    this.#onOpen(file);
  }

  async #upload(file) {
    if (file === undefined) return;
    try {
      const { bytes, url } = await readUpload(file);
      this.notify("");
      this.#addCard({ name: "Your picture", prompt: UPLOAD_PROMPT, url, bytes });
      this.#choose(this.#openings.length - 1);
      element("enter").disabled = false;
    } catch (error) {
      this.notify(error.message);
    }
  }

  #addCard(opening) {
    const card = document.createElement("label");
    const [radio, image, name] = ["input", "img", "span"].map((tag) => document.createElement(tag));
    Object.assign(radio, {
      type: "radio",
      name: "opening",
      value: this.#openings.length,
      className: "visually-hidden",
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
    this.#update();
  }

  #update() {
    const opening = this.#openings[this.#chosenIndex];
    if (!this.#promptIsEdited) this.#prompt.value = opening.prompt;
    this.#prompt.placeholder = opening.prompt; // the prompt of an emptied field
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
