/** How the frames of one walk travel: as chosen, or as the line carries them. The mark tells of it. */

import { Output } from "./session/output.js";
import { Speed } from "./session/speed.js";
import { canDecodeH264 } from "./ui/format.js";
import { describeSpeed } from "./ui/speed_words.js";

export class Stream {
  #output;
  #speed = new Speed();
  #settings;
  #mark;
  #session = null;
  #size; // "WxH" of the world, or undefined while it is not known
  #fps = 0;

  /** chosen: see `Output`. ui: { settings, mark }. */
  constructor(chosen, { settings, mark }) {
    this.#output = new Output(chosen);
    this.#settings = settings;
    this.#mark = mark;
    canDecodeH264().then((isDecoded) => this.#output.setVideo(isDecoded));
  }

  /** Output fields of the next init. */
  get fields() {
    return this.#output.fields;
  }

  /** What the user chose, for the next walk. */
  get chosen() {
    return this.#output.chosen;
  }

  /** A session opens. size: "WxH" of its world, or undefined. */
  open(session, size) {
    this.#session = session;
    this.#size = size;
    this.restart();
  }

  /** message: `session`. */
  opened({ width, height, fps }) {
    this.#size = `${width}x${height}`;
    this.#fps = fps;
    this.#output.setWidth(width);
    this.#show();
  }

  /** Forgets the chunks before a pause: they say nothing about the speed after it. */
  restart() {
    this.#speed.restart();
    this.#show();
  }

  /** Changes what the user chose, for this session and the next ones. */
  change(fields) {
    this.#send(this.#output.change(fields));
  }

  /** chunk: see `LineMeter.finish`. */
  addChunk(chunk) {
    this.#speed.add(chunk);
    const fields = this.#output.add(performance.now(), chunk);
    if (fields !== null) this.#send(fields);
    else this.#showSpeed();
  }

  /** The codec of the frames that arrive has changed. */
  showCodec(codec) {
    this.#settings.setFormat(codec);
  }

  /** The codec has failed, in this browser or on the server: requests JPEG. */
  dropCodec() {
    const fields = this.#output.dropCodec();
    if (fields === null) this.#show();
    else this.#send(fields);
    this.#settings.setFormat("jpeg");
  }

  #send(fields) {
    this.#session.changeOutput(fields);
    this.restart();
  }

  #show() {
    if (this.#size !== undefined) this.#settings.show(this.#size, this.#output);
    this.#showSpeed();
  }

  #showSpeed() {
    const { isAuto, ladder } = this.#output;
    const lowered = isAuto && !ladder.isFirst ? ladder.step : null;
    const isLowest = isAuto && ladder.isLowest;
    const figures = { fps: this.#fps, isAuto, lowered, isLowest };
    this.#mark.show(describeSpeed(this.#speed.verdict, figures));
  }
}
