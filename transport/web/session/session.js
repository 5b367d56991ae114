/** One session with the server: its socket, its messages and its statistics. */

import { ControlLatency, Rate } from "./stats.js";
import { Wire } from "./wire.js";

const DECODE_FAILED = {
  none: "A batch of frames could not be decoded.",
  key_frame: "A frame could not be decoded; the picture comes back in a moment.",
  jpeg: "This browser cannot decode that video; JPEG follows.",
};

export class Session {
  #wire;
  #player;
  #listeners;
  #state = "opening";
  #error = null; // the last error message; the next frame batch clears it
  #isPaused = false;
  #end = null; // the first reason to end, kept while the last frames are shown
  #nextEventId = 1;
  #numBytes = 0; // since the last complete chunk
  #numChunkFrames = 0; // since the last complete chunk
  #rates = { frames: new Rate(), bytes: new Rate() };
  #controlLatency = new ControlLatency();
  #stats = {
    chunkIndex: null,
    chunkMs: null,
    codec: null,
    applied: null,
    framesDroppedByServer: 0,
    framesReceived: 0,
    framesShown: 0,
    framesLate: 0,
    framesDropped: 0,
    framesCut: 0,
    framesQueued: 0,
    bufferMs: null,
    targetMs: null,
  };
  #onVisibility = () => {
    // A hidden page shows no frames, so its time must not count as control latency.
    this.#controlLatency.clear();
    this.#tellVisibility();
  };

  /**
   * world: the answer of /v1/world.
   * listeners: onState(state, detail), onFrameShown(), onCodec(codec), onNotice(text),
   * onPace(message), onEnding(message or null if it is taken back),
   * onEnd({ code, reason, error, opened }).
   * States: opening, queued, starting, playing, paused, ended.
   */
  constructor(url, init, { player, world, ...listeners }) {
    this.#player = player;
    this.#listeners = listeners;
    player.open({
      fps: world.fps,
      chunkFrames: world.chunk_frames,
      onReport: (report) => this.#handleReport(report),
    });
    this.#wire = new Wire(url, init, {
      onMessage: (message, numBytes) => this.#handleMessage(message, numBytes),
      onClose: (close) => this.#finish(close),
    });
    document.addEventListener("visibilitychange", this.#onVisibility);
  }

  get state() {
    return this.#state;
  }

  /** A snapshot: ms, bytes per second, generated frames per second, and counts. */
  get stats() {
    const nowMs = performance.now();
    return {
      ...this.#stats,
      fps: this.#rates.frames.at(nowMs),
      bytesPerSecond: this.#rates.bytes.at(nowMs),
      controlMs: this.#controlLatency.lastMs,
    };
  }

  hold(keys) {
    const transition = { actions: keys, client_ts_ms: performance.now() | 0 };
    const eventId = this.#sendEvent("camera_actions", {
      mode: "state",
      transitions: [transition],
    });
    this.#controlLatency.send(eventId, performance.now());
  }

  changePrompt(prompt) {
    this.#sendEvent("prompt", prompt);
  }

  /** Changes the encoding of the next chunks. `fields` are output fields of an init. */
  changeOutput(fields) {
    this.#sendEvent("output", fields);
  }

  /** Ends a pause, as a key does. */
  resume() {
    this.#tellVisibility();
  }

  close() {
    document.removeEventListener("visibilitychange", this.#onVisibility);
    this.#wire.close();
    this.#player.close();
    this.#state = "ended";
  }

  #tellVisibility() {
    this.#sendEvent("visibility", document.hidden ? "hidden" : "visible");
  }

  #sendEvent(kind, payload) {
    const eventId = this.#nextEventId++;
    this.#wire.send({ type: "event", kind, event_id: eventId, payload });
    return eventId;
  }

  // ---- from the server

  #handleMessage(message, numBytes) {
    this.#numBytes += numBytes;
    switch (message.type) {
      case "frame_batch":
        this.#error = null;
        this.#player.addBatch(message);
        break;
      case "chunk_stats":
        this.#stats.chunkMs = message.scheduler_forward_ms;
        break;
      case "session":
        this.#player.setPace({ fps: message.fps, chunkFrames: message.chunk_frames });
        if (document.hidden) this.#tellVisibility();
        break;
      case "queued":
      case "starting":
        this.#setState(message.type, message);
        break;
      case "paused":
        this.#isPaused = true;
        this.#setState("paused", message);
        break;
      case "resumed":
        this.#resume();
        break;
      case "paced":
        this.#listeners.onPace(message);
        break;
      case "ending":
        this.#listeners.onEnding(message);
        break;
      case "warning":
        this.#listeners.onNotice(message.content);
        // JPEG has replaced the requested codec.
        if (message.code === "codec_failed") this.#listeners.onCodec(this.#stats.codec);
        break;
      case "error":
        this.#handleError(message);
        break;
    }
  }

  #resume() {
    this.#isPaused = false;
    this.#player.restart();
    this.#rates = { frames: new Rate(), bytes: new Rate() };
    this.#listeners.onEnding(null);
    this.#setState(this.#stats.chunkIndex === null ? "opening" : "playing");
  }

  #handleError(error) {
    this.#error = error;
    if (this.#state === "playing" || this.#isPaused) this.#listeners.onNotice(error.content);
    // After a refused init the server waits for another one. This page does not send it.
    else this.#finish({ code: null, reason: "", opened: true });
  }

  /** Ends the session. After a normal close (1000), frames already received are shown first. */
  #finish(close) {
    if (this.#end !== null) return;
    this.#end = { ...close, error: this.#error };
    this.#player.finish({ drain: close.code === 1000 });
  }

  // ---- from the player

  #handleReport({ report, stats, ...details }) {
    Object.assign(this.#stats, stats);
    switch (report) {
      case "decoded":
        this.#countBatch(details.header, details.numFrames);
        if (details.numFrames > 0 && !this.#isPaused) this.#setState("playing");
        break;
      case "shown":
        this.#controlLatency.show(details.eventIds, performance.now());
        this.#listeners.onFrameShown();
        break;
      case "decode_failed":
        this.#recover(details.recovery);
        break;
      case "finished":
        this.close();
        this.#listeners.onEnd(this.#end);
        break;
    }
  }

  #countBatch(header, numFrames) {
    const codec = header.encoding ?? header.format;
    if (codec !== this.#stats.codec) this.#listeners.onCodec(codec);
    Object.assign(this.#stats, {
      codec,
      chunkIndex: header.chunk_index,
      applied: header.applied_controls ?? null,
      framesDroppedByServer: header.dropped_frames ?? 0,
    });
    this.#numChunkFrames += numFrames;
    if (!header.is_final_frame_batch) return;
    const nowMs = performance.now();
    this.#rates.frames.add(nowMs, this.#numChunkFrames);
    this.#rates.bytes.add(nowMs, this.#numBytes);
    this.#numChunkFrames = 0;
    this.#numBytes = 0;
    this.#wire.send({ type: "ack", chunk_index: header.chunk_index });
  }

  #recover(recovery) {
    this.#listeners.onNotice(DECODE_FAILED[recovery]);
    if (recovery === "key_frame") this.#sendEvent("key_frame", null);
    if (recovery === "jpeg") this.changeOutput({ realtime_output_format: "jpeg" });
  }

  #setState(state, detail) {
    if (this.#state === "ended" || (state === "playing" && this.#state === state)) return;
    this.#state = state;
    this.#listeners.onState(state, detail);
  }
}
