/** The start screen: opening image, prompt and options. */

import { readBytes } from "./file.js";
import { offerFormats } from "./format.js";
import { isPicture, nearestShape, readUpload } from "./image.js";
import { Openings } from "./openings.js";

const DESCRIBE = "Describe the world"; // an upload has no prompt of its own
const ANY_SIZE = "832x480"; // requested if the world serves any size; the server takes the nearest
// An init holds 16 MiB by default. Its other fields need little.
const MAX_WORLD_BYTES = 16 * 2 ** 20 - 2 ** 16;
const NO_OPENING = "This world has no picture of its own. Use yours to begin.";
const WRONG_SEED = `A seed is a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, or empty for any.`;
const ANY_SEED = -1; // the server draws one
const NOT_READY = "The server has not answered yet. Try again in a moment.";

export class Start {
  #form = element("setup");
  #prompt = element("prompt");
  #seed = element("seed");
  #openings = new Openings(() => this.#update());
  #promptIsEdited = false;
  #sizes = null; // [width, height] each, once the server has answered
  #onChoose;
  #onOpen;

  /**
   * onEnter(choice): see #choice. onOpen(name, snapshot): called with a saved world.
   * onChoose(url): called with the chosen image.
   */
  constructor({ onEnter, onOpen, onChoose }) {
    this.#onChoose = onChoose;
    this.#onOpen = onOpen;
    offerFormats(element("format"));
    this.#prompt.addEventListener("input", () => {
      this.#promptIsEdited = this.#prompt.value !== "";
    });
    this.#listenToFiles(element("upload"), (file) => this.#upload(file));
    this.#listenToFiles(element("open"), (file) => this.#openWorld(file));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter(onEnter);
    });
    // Enter walks in also before anything has the focus.
    window.addEventListener("keydown", ({ key, repeat, target }) => {
      const isShown = this.#form.getClientRects().length > 0;
      if (key === "Enter" && !repeat && isShown && target === document.body) {
        this.#form.requestSubmit();
      }
    });
  }

  /** Fills the screen from the answer of /v1/world. */
  show(world) {
    world.openings.forEach((opening, index) => {
      this.#openings.add({ ...opening, isDefault: index === 0 });
    });
    const sizes = world.sizes.map(([width, height]) => `${width}x${height}`);
    element("size").replaceChildren(
      ...(sizes.length > 0 ? sizes : [ANY_SIZE]).map((size) => new Option(size)),
    );
    this.#sizes = world.sizes;
    if (sizes.length > 1) element("size").prepend(new Option("as the picture", "", true, true));
    element("size-label").hidden = sizes.length < 2;
    element("open").disabled = false;
    this.#update();
  }

  notify(text) {
    element("start-notice").textContent = text;
    element("start-notice").hidden = text === "";
  }

  focus() {
    element("enter").focus();
  }

  /**
   * Takes a dropped file: chooses a picture, or opens a saved world. Resolves to "picture" or
   * "world". Rejects with a text for the user.
   */
  async take(file) {
    if (await isPicture(file)) {
      await this.#upload(file);
      return "picture";
    }
    if (!file.name.endsWith(".world")) {
      throw new Error(`${file.name} is neither a picture nor a saved world (a .world file).`);
    }
    await this.#openWorld(file);
    return "world";
  }

  /** The fields of an init that say how frames travel. */
  get output() {
    return { realtime_output_format: element("format").value };
  }

  async #enter(onEnter) {
    if (!this.#checkSeed()) return;
    element("enter").disabled = true; // against a second click during the download
    const choice = await this.#choice().catch(() => null);
    element("enter").disabled = false;
    this.notify(choice === null ? "The picture could not be fetched. Try again in a moment." : "");
    if (choice !== null) onEnter(choice);
  }

  /** Says what is wrong with the seed, at its field, which may be folded away. */
  #checkSeed() {
    const { valid } = this.#seed.validity;
    this.#seed.setAttribute("aria-invalid", String(!valid));
    if (valid) return true;
    element("options").open = true;
    this.notify(WRONG_SEED);
    this.#seed.focus();
    return false;
  }

  /** What to enter: see Walk. The preset's own opening needs no first_frame. */
  async #choice() {
    const opening = this.#openings.chosen;
    const size = element("size").value || (await nearestShape(opening.url, this.#sizes));
    const seed = this.#seed.value === "" ? ANY_SEED : Number(this.#seed.value);
    const fields = { size, seed };
    const prompt = this.#prompt.value.trim() || opening.prompt;
    if (prompt !== "") fields.prompt = prompt;
    if (opening.bytes !== undefined) fields.first_frame = opening.bytes;
    else if (!opening.isDefault) fields.first_frame = await download(opening.url);
    return { kind: "opening", fields, output: this.output, prompt, size, imageUrl: opening.url };
  }

  /** onFile(file): called with each chosen file; what it rejects with is shown. */
  #listenToFiles(input, onFile) {
    input.addEventListener("change", async () => {
      const [file] = input.files;
      input.value = ""; // the same file may be chosen again
      if (file === undefined) return;
      try {
        await onFile(file);
      } catch (error) {
        this.notify(error.message);
      }
    });
  }

  async #openWorld(file) {
    if (this.#sizes === null) throw new Error(NOT_READY);
    if (file.size > MAX_WORLD_BYTES) {
      const mebibytes = Math.ceil(file.size / 2 ** 20);
      throw new Error(`${file.name} has ${mebibytes} MiB. A saved world has less than 16.`);
    }
    const snapshot = await readBytes(file, file.name);
    this.notify("");
    this.#onOpen(file.name, snapshot);
  }

  async #upload(file) {
    const { bytes, url } = await readUpload(file);
    this.notify("");
    this.#openings.addUpload({ prompt: "", url, bytes });
  }

  #update() {
    const opening = this.#openings.chosen;
    const isReady = this.#sizes !== null;
    element("enter").disabled = opening === null || !isReady;
    if (opening === null) {
      if (isReady) this.notify(NO_OPENING);
      return;
    }
    if (!this.#promptIsEdited) this.#prompt.value = opening.prompt;
    this.#prompt.placeholder = opening.prompt || DESCRIBE; // the prompt of an emptied field
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
