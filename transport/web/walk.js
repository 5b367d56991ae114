/** One walk through one world: its socket, its playout, its figures. */

import { ControlTime, Rate } from "./meter.js";
import { decodeBatch, paint, release } from "./picture.js";
import { Playback } from "./playback.js";
import { Wire } from "./wire.js";

export class Walk {
  #wire;
  #playback;
  #context;
  #tell;
  #state = "opening";
  #decoding = Promise.resolve(); // in the order the batches came, however long each takes
  #error = null; // the last message of that type, where no frame came after it
  #nextEventId = 1;
  #numBytes = 0; // since the last whole chunk
  #chunkFramesSoFar = 0;
  #rates = { frames: new Rate(), bytes: new Rate() };
  #controlTime = new ControlTime();
  #figures = { framesReceived: 0, chunkIndex: null, chunkMs: null, codec: null, applied: null };
  #restart = () => {
    // A hidden page shows nothing: that time is neither late nor a control's.
    this.#playback.restart();
    this.#controlTime.clear();
  };

  /**
   * world: the answer of /v1/world. listeners: onState(state, detail), onShow(), onNotice(text),
   * onEnd({ code, reason, error, opened }). States: opening, queued, warming, playing, ended.
   */
  constructor(url, init, { context, world, ...listeners }) {
    this.#context = context;
    this.#tell = listeners;
    this.#playback = new Playback({
      fps: world.fps,
      chunkFrames: world.chunk_frames,
      onDrop: (frame) => release(frame.picture),
    });
    this.#wire = new Wire(url, init, {
      onMessage: (message, numBytes) => this.#receive(message, numBytes),
      onClose: (close) => this.#closed(close),
    });
    document.addEventListener("visibilitychange", this.#restart);
    requestAnimationFrame(() => this.#tick());
  }

  get state() {
    return this.#state;
  }

  /** A snapshot: ms, bytes per second, generated frames per second, and counts. */
  get stats() {
    const now = performance.now();
    return {
      ...this.#figures,
      fps: this.#rates.frames.at(now),
      bytesPerSecond: this.#rates.bytes.at(now),
      controlMs: this.#controlTime.last,
      framesShown: this.#playback.numShown,
      framesLate: this.#playback.numLate,
      framesDropped: this.#playback.numDropped,
      framesQueued: this.#playback.length,
    };
  }

  hold(keys) {
    const transition = { actions: keys, client_ts_ms: performance.now() | 0 };
    const eventId = this.#control("camera_actions", { mode: "state", transitions: [transition] });
    this.#controlTime.send(eventId, performance.now());
  }

  changePrompt(prompt) {
    this.#control("prompt", prompt);
  }

  leave() {
    document.removeEventListener("visibilitychange", this.#restart);
    this.#wire.close();
    this.#state = "ended";
    this.#playback.clear();
  }

  #control(kind, payload) {
    const eventId = this.#nextEventId++;
    this.#wire.send({ type: "event", kind, event_id: eventId, payload });
    return eventId;
  }

  #receive(message, numBytes) {
    this.#numBytes += numBytes;
    switch (message.type) {
      case "frame_batch":
        this.#error = null;
        this.#decoding = this.#decoding
          .then(() => this.#queue(message))
          .catch(() => this.#spoiled());
        break;
      case "chunk_stats":
        this.#figures.chunkMs = message.scheduler_forward_ms;
        break;
      case "session":
        this.#playback.fps = message.fps;
        this.#playback.chunkFrames = message.chunk_frames;
        break;
      case "queued":
      case "warming":
        this.#enter(message.type, message);
        break;
      case "error":
        this.#fail(message);
        break;
    }
  }

  async #queue(message) {
    const pictures = await decodeBatch(message);
    if (this.#state === "ended") {
      pictures.forEach(release);
      return;
    }
    const opensChunk = message.frame_batch_index === 0;
    const eventIds = opensChunk ? (message.applied_controls?.event_ids ?? []) : [];
    this.#playback.push(
      pictures.map((picture, index) => ({
        picture,
        chunkIndex: message.chunk_index,
        eventIds: index === 0 ? eventIds : [],
      })),
    );
    this.#count(message, pictures.length);
    this.#enter("playing", message);
  }

  #count(message, num) {
    Object.assign(this.#figures, {
      framesReceived: this.#figures.framesReceived + num,
      chunkIndex: message.chunk_index,
      codec: message.encoding ?? message.format,
      applied: message.applied_controls ?? null,
    });
    this.#chunkFramesSoFar += num;
    if (!message.is_final_frame_batch) return;
    const now = performance.now();
    this.#rates.frames.add(now, this.#chunkFramesSoFar);
    this.#rates.bytes.add(now, this.#numBytes);
    this.#chunkFramesSoFar = 0;
    this.#numBytes = 0;
    this.#wire.send({ type: "ack", chunk_index: message.chunk_index });
  }

  #spoiled() {
    this.#tell.onNotice("A batch of frames could not be decoded.");
  }

  #fail(error) {
    this.#error = error;
    if (this.#state === "playing") this.#tell.onNotice(error.content);
    // A refused init leaves the socket open for another one, which this page does not send.
    else this.#closed({ code: null, reason: "", opened: true });
  }

  #closed(close) {
    const end = { ...close, error: this.#error };
    this.#decoding.then(() => this.#finish(end));
  }

  /** What was received before an orderly end is still shown. */
  #finish(end) {
    if (this.#state === "ended") return;
    if (end.code === 1000 && this.#playback.length > 0) {
      requestAnimationFrame(() => this.#finish(end));
      return;
    }
    this.leave();
    this.#tell.onEnd(end);
  }

  #tick() {
    if (this.#state === "ended") return;
    const frame = this.#playback.take(performance.now());
    if (frame !== null) this.#show(frame);
    requestAnimationFrame(() => this.#tick());
  }

  #show({ picture, eventIds }) {
    paint(this.#context, picture);
    release(picture);
    this.#controlTime.show(eventIds, performance.now());
    this.#tell.onShow();
  }

  #enter(state, detail) {
    if (this.#state === "ended" || (state === "playing" && this.#state === state)) return;
    this.#state = state;
    this.#tell.onState(state, detail);
  }
}
