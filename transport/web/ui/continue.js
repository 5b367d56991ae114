/** The offer on the start screen to go on in the world that this browser keeps. */

import { formatClock } from "./notices.js";

const element = (id) => document.getElementById(id);

export class Continue {
  #kept = null;
  #url = "";

  /** onContinue(kept), onForget(): called when the user chooses one. */
  constructor({ onContinue, onForget }) {
    element("continue").addEventListener("click", () => onContinue(this.#kept));
    element("forget").addEventListener("click", onForget);
  }

  /** kept: see `keep`; null or undefined hides the offer. */
  show(kept) {
    URL.revokeObjectURL(this.#url);
    this.#kept = kept;
    element("kept").hidden = !kept;
    if (!kept) return;
    this.#url = kept.preview === null ? "" : URL.createObjectURL(kept.preview);
    element("continue-image").src = this.#url;
    element("continue-image").hidden = this.#url === "";
    const saved = new Date(kept.savedAtMs).toLocaleString(undefined, {
      dateStyle: "medium",
      timeStyle: "short",
    });
    element("continue-text").textContent = `${formatClock(kept.seconds)} into a walk, ${saved}`;
  }
}
