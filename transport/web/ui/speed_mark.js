/** The mark in the bar that says how fast the world runs, and why it is no faster. */

const QUIET_MS = 5000; // between two announcements

const element = (id) => document.getElementById(id);

export class SpeedMark {
  #announced = ""; // the sentence without its numbers
  #announcedMs = -QUIET_MS;
  #text = ""; // the last sentence, or "" while the speed is not known

  constructor() {
    // A new number is not announced, but the focus shows and reads the sentence.
    element("speed").addEventListener("focus", () => write(element("speed-status"), this.#text));
  }

  /** Shows a sentence: see `describeSpeed`. It is announced if more than a number has changed. */
  show({ level, text }) {
    const button = element("speed");
    button.dataset.level = level;
    button.title = text;
    write(element("speed-text"), text);
    this.#text = level === "unknown" ? "" : text;
    if (level === "unknown") write(element("speed-status"), "");
    const kind = level + text.replaceAll(/\d+/g, "");
    const nowMs = performance.now();
    const isNews = kind !== this.#announced && nowMs - this.#announcedMs >= QUIET_MS;
    if (level === "unknown" || !isNews) return;
    this.#announced = kind;
    this.#announcedMs = nowMs;
    write(element("speed-status"), text);
  }
}

function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
