/** The output settings of the open session: format, quality and width of its frames. */

import { returnAfterPointer } from "./focus.js";
import { isLossy, offerFormats } from "./format.js";

const WIDTH_SHARES = [1, 0.75, 0.5, 0.25]; // of the world's own width
const DEFAULT_QUALITY = 90;

export class Settings {
  #format = element("live-format");
  #quality = element("live-quality");
  #width = element("live-width");

  /** onChange(fields): called with the changed fields of an init. */
  constructor(onChange) {
    offerFormats(this.#format);
    this.#quality.addEventListener("input", () => this.#update());
    this.#listen(this.#format, () => onChange({ realtime_output_format: this.#format.value }));
    this.#listen(this.#quality, () =>
      onChange({ output_compression: Number(this.#quality.value) }),
    );
    this.#listen(this.#width, () =>
      onChange({ realtime_preview_max_width: Number(this.#width.value) }),
    );
  }

  /** Shows the settings that an init requests in `output`. size: "WxH" of the world. */
  show(size, output) {
    const worldWidth = Number(size.split("x")[0]);
    this.#width.replaceChildren(
      ...WIDTH_SHARES.map((share) => Math.round((worldWidth * share) / 2) * 2).map((width) =>
        width === worldWidth ? new Option("as made", 0) : new Option(`${width} px`, width),
      ),
    );
    this.#format.value = output.realtime_output_format;
    this.#quality.value = output.output_compression ?? DEFAULT_QUALITY;
    this.#width.value = output.realtime_preview_max_width ?? 0;
    this.#update();
  }

  /** Shows the format that arrives, which may differ from the requested one. */
  setFormat(format) {
    this.#format.value = format;
    this.#update();
  }

  #listen(control, onChange) {
    control.addEventListener("change", () => {
      this.#update();
      onChange();
    });
    returnAfterPointer(control);
  }

  #update() {
    element("live-quality-text").textContent = this.#quality.value;
    const lossy = isLossy(this.#format.value);
    this.#quality.disabled = !lossy;
    this.#width.disabled = !lossy;
  }
}

function element(id) {
  return document.getElementById(id);
}
