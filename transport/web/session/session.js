/** One walk through one world: its socket, what goes over it, and its figures. */

import { ControlTime, Rate } from "./stats.js";
import { Wire } from "./wire.js";

const SPOILED = {
  none: "A batch of frames could not be decoded.",
  key_frame: "A frame could not be decoded; the picture comes back in a moment.",
  jpeg: "This browser cannot decode that video; JPEG follows.",
};

export class Walk {
  #wire;
  #screen;
  #tell;
  #state = "opening";
  #error = null; // the last message of that type, where no frame came after it
  #end = null; // the first reason for which the walk is over, while its last frames are shown
  #nextEventId = 1;
  #numBytes = 0; // since the last whole chunk
  #chunkFramesSoFar = 0;
  #rates = { frames: new Rate(), bytes: new Rate() };
  #controlTime = new ControlTime();
  #figures = {
    chunkIndex: null, chunkMs: null, codec: null, applied: null, framesDroppedByServer: 0,
    framesReceived: 0, framesShown: 0, framesLate: 0, framesDropped: 0, framesCut: 0,
    framesQueued: 0, bufferMs: null, targetMs: null,
  }; // prettier-ignore
  #forget = () => this.#controlTime.clear(); // nobody looks: that time is not a control's

  /**
   * world: the answer of /v1/world. listeners: onState(state, detail), onShow(), onCodec(codec),
   * onNotice(text), onEnd({ code, reason, error, opened }).
   * States: opening, queued, warming, playing, ended.
   */
  constructor(url, init, { screen, world, ...listeners }) {
    this.#screen = screen;
    this.#tell = listeners;
    screen.open({
      fps: world.fps,
      chunkFrames: world.chunk_frames,
      onReport: (report) => this.#follow(report),
    });
    this.#wire = new Wire(url, init, {
      onMessage: (message, numBytes) => this.#receive(message, numBytes),
      onClose: (close) => this.#closed(close),
    });
    document.addEventListener("visibilitychange", this.#forget);
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

  /** How the next chunks travel: fields of an init. */
  changeOutput(fields) {
    this.#control("output", fields);
  }

  leave() {
    document.removeEventListener("visibilitychange", this.#forget);
    this.#wire.close();
    this.#screen.close();
    this.#state = "ended";
  }

  #control(kind, payload) {
    const eventId = this.#nextEventId++;
    this.#wire.send({ type: "event", kind, event_id: eventId, payload });
    return eventId;
  }

  // ---- from the server

  #receive(message, numBytes) {
    this.#numBytes += numBytes;
    switch (message.type) {
      case "frame_batch":
        this.#error = null;
        this.#screen.add(message);
        break;
      case "chunk_stats":
        this.#figures.chunkMs = message.scheduler_forward_ms;
        break;
      case "session":
        this.#screen.pace({ fps: message.fps, chunkFrames: message.chunk_frames });
        break;
      case "queued":
      case "warming":
        this.#enter(message.type, message);
        break;
      case "warning":
        this.#tell.onNotice(message.content);
        this.#tell.onCodec(this.#figures.codec); // it may not be the one that was asked for
        break;
      case "error":
        this.#fail(message);
        break;
    }
  }

  #fail(error) {
    this.#error = error;
    if (this.#state === "playing") this.#tell.onNotice(error.content);
    // A refused init leaves the socket open for another one, which this page does not send.
    else this.#closed({ code: null, reason: "", opened: true });
  }

  /** What was received before an orderly end is still shown. */
  #closed(close) {
    if (this.#end !== null) return;
    this.#end = { ...close, error: this.#error };
    this.#screen.finish({ drain: close.code === 1000 });
  }

  // ---- from the screen

  #follow({ report, figures, ...details }) {
    Object.assign(this.#figures, figures);
    switch (report) {
      case "decoded":
        this.#count(details.header, details.numFrames);
        if (details.numFrames > 0) this.#enter("playing");
        break;
      case "shown":
        this.#controlTime.show(details.eventIds, performance.now());
        this.#tell.onShow();
        break;
      case "spoiled":
        this.#mend(details.remedy);
        break;
      case "finished":
        this.leave();
        this.#tell.onEnd(this.#end);
        break;
    }
  }

  #count(header, numFrames) {
    const codec = header.encoding ?? header.format;
    if (codec !== this.#figures.codec) this.#tell.onCodec(codec);
    Object.assign(this.#figures, {
      codec,
      chunkIndex: header.chunk_index,
      applied: header.applied_controls ?? null,
      framesDroppedByServer: header.dropped_frames ?? 0,
    });
    this.#chunkFramesSoFar += numFrames;
    if (!header.is_final_frame_batch) return;
    const now = performance.now();
    this.#rates.frames.add(now, this.#chunkFramesSoFar);
    this.#rates.bytes.add(now, this.#numBytes);
    this.#chunkFramesSoFar = 0;
    this.#numBytes = 0;
    this.#wire.send({ type: "ack", chunk_index: header.chunk_index });
  }

  #mend(remedy) {
    this.#tell.onNotice(SPOILED[remedy]);
    if (remedy === "key_frame") this.#control("key_frame", null);
    if (remedy === "jpeg") this.changeOutput({ realtime_output_format: "jpeg" });
  }

  #enter(state, detail) {
    if (this.#state === "ended" || (state === "playing" && this.#state === state)) return;
    this.#state = state;
    this.#tell.onState(state, detail);
  }
}
