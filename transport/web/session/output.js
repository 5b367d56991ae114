/** How frames are requested: as the user chose, or, with "auto", as the line carries them. */

import { Ladder, PICTURE_STEPS, VIDEO_STEPS } from "./ladder.js";

const AUTO = "auto";

export class Output {
  #chosen;
  #ladder = null; // null with a choice by hand
  #steps = PICTURE_STEPS;
  #worldWidth = null;

  /** chosen: output fields of an init, of which the format may be "auto". */
  constructor(chosen) {
    this.#chosen = { ...chosen };
    this.#reset();
  }

  /** What the user chose, as the constructor takes it. */
  get chosen() {
    return { ...this.#chosen };
  }

  get isAuto() {
    return this.#ladder !== null;
  }

  /** The ladder of "auto", or null. */
  get ladder() {
    return this.#ladder;
  }

  /** What is requested now: as `fields`, but complete for a choice of the line. */
  get current() {
    return this.isAuto ? this.#stepFields : this.chosen;
  }

  /** Output fields of an init; the server's defaults are left out. */
  get fields() {
    if (!this.isAuto) return this.chosen;
    const { format } = this.#ladder.step;
    return this.#ladder.isFirst ? { realtime_output_format: format } : this.#stepFields;
  }

  /** The codec has failed. Returns the fields to send, or null if JPEG was requested already. */
  dropCodec() {
    const hadVideo = this.#steps === VIDEO_STEPS;
    // Another codec, chosen by hand, says nothing about H.264.
    if (this.isAuto || this.#chosen.realtime_output_format === "h264") this.setVideo(false);
    // The server keeps quality and width of the step that failed, so that all fields are sent.
    if (this.isAuto) return hadVideo ? this.#stepFields : null;
    if (this.#chosen.realtime_output_format === "jpeg") return null;
    this.#chosen.realtime_output_format = "jpeg";
    return this.chosen;
  }

  /** This browser decodes H.264, or it has failed to. */
  setVideo(isDecoded) {
    const steps = isDecoded ? VIDEO_STEPS : PICTURE_STEPS;
    if (steps === this.#steps) return;
    this.#steps = steps;
    this.#reset();
  }

  /** The width of the world that has opened. */
  setWidth(width) {
    this.#worldWidth = width;
  }

  /** Changes what the user chose. Returns the fields to send. */
  change(fields) {
    const wasAuto = this.isAuto;
    const { realtime_output_format: format } = fields;
    Object.assign(this.#chosen, fields);
    if (format === AUTO) {
      this.#chosen = { realtime_output_format: AUTO };
      this.#reset();
      return this.#stepFields;
    }
    if (!wasAuto) return fields;
    // What the line carried so far stays as it is, but for what was changed.
    this.#chosen = { ...this.#stepFields, ...fields };
    this.#ladder = null;
    return this.chosen;
  }

  /** Adds a chunk: see `LineMeter.finish`. Returns the fields to send, or null without a change. */
  add(nowMs, chunk) {
    if (!this.isAuto || !this.#ladder.add(nowMs, chunk)) return null;
    return this.#stepFields;
  }

  get #stepFields() {
    const { format, quality, width } = this.#ladder.step;
    const isFull = width === 1 || this.#worldWidth === null;
    return {
      realtime_output_format: format,
      output_compression: quality,
      realtime_preview_max_width: isFull ? 0 : Math.round((this.#worldWidth * width) / 2) * 2,
    };
  }

  #reset() {
    this.#ladder = this.#chosen.realtime_output_format === AUTO ? new Ladder(this.#steps) : null;
  }
}
