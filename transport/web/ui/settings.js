/** The settings of a walk that is under way: how its frames travel. */

import { isLossy, offerFormats } from "./format.js";

const SHARES = [1, 0.75, 0.5, 0.25]; // of the world's own width
const DEFAULT_QUALITY = 90;

export class Settings {
  #format = element("live-format");
  #quality = element("live-quality");
  #width = element("live-width");

  /** onChange(fields): of an init, what the person changed. */
  constructor(onChange) {
    offerFormats(this.#format);
    this.#quality.addEventListener("input", () => this.#label());
    this.#listen(this.#format, () => onChange({ realtime_output_format: this.#format.value }));
    this.#listen(this.#quality, () =>
      onChange({ output_compression: Number(this.#quality.value) }),
    );
    this.#listen(this.#width, () =>
      onChange({ realtime_preview_max_width: Number(this.#width.value) }),
    );
  }

  /** What an init asks for. */
  show(init) {
    const worldWidth = Number(init.size.split("x")[0]);
    this.#width.replaceChildren(
      ...SHARES.map((share) => Math.round((worldWidth * share) / 2) * 2).map((width) =>
        width === worldWidth ? new Option("as made", 0) : new Option(`${width} px`, width),
      ),
    );
    this.#format.value = init.realtime_output_format;
    this.#quality.value = init.output_compression ?? DEFAULT_QUALITY;
    this.#width.value = init.realtime_preview_max_width ?? 0;
    this.#label();
  }

  /** What really comes, which may not be what was asked for. */
  follow(format) {
    this.#format.value = format;
    this.#label();
  }

  #listen(control, change) {
    control.addEventListener("change", () => {
      this.#label();
      change();
      if (control instanceof HTMLSelectElement) control.blur(); // W walks, and chooses no WebP
    });
  }

  #label() {
    element("live-quality-text").textContent = this.#quality.value;
    const lossy = isLossy(this.#format.value);
    this.#quality.disabled = !lossy;
    this.#width.disabled = !lossy;
  }
}

function element(id) {
  return document.getElementById(id);
}
