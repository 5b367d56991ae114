/** The output settings of the open session: format, quality and width of its frames. */

import { returnAfterPointer } from "./focus.js";
import { AUTO, formatName, isLossy, offerFormats } from "./format.js";

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

  /** Shows an `Output`: what the user chose, and what is requested now. size: "WxH" of the world. */
  show(size, { chosen, current }) {
    const worldWidth = Number(size.split("x")[0]);
    this.#width.replaceChildren(
      ...WIDTH_SHARES.map((share) => Math.round((worldWidth * share) / 2) * 2).map((width) =>
        width === worldWidth ? new Option("as made", 0) : new Option(`${width} px`, width),
      ),
    );
    this.#format.value = chosen.realtime_output_format;
    this.#quality.value = current.output_compression || DEFAULT_QUALITY;
    this.#width.value = current.realtime_preview_max_width ?? 0;
    this.setFormat(current.realtime_output_format);
  }

  /** Shows the format that arrives, which may differ from the requested one. */
  setFormat(format) {
    const isAuto = this.#format.value === AUTO;
    const automatic = this.#format.querySelector(`[value=${AUTO}]`);
    automatic.text = isAuto ? `Automatic: ${formatName(format)}` : "Automatic";
    if (!isAuto) this.#format.value = format;
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
    const isFixed = this.#format.value === AUTO || !isLossy(this.#format.value);
    this.#quality.disabled = isFixed;
    this.#width.disabled = isFixed;
  }
}

function element(id) {
  return document.getElementById(id);
}
