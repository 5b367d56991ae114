/** One session with the server: its socket, its messages and its statistics. */

import { CLOSED, DECODE_FAILED, RECONNECT } from "./notices.js";
import { Requests } from "./requests.js";
import { SessionStats } from "./stats.js";
import { Wire } from "./wire.js";

export class Session {
  #wire;
  #player;
  #listeners;
  #state = "opening";
  #error = null; // the last error that answers no event; the next frame batch clears it
  #isPaused = false;
  #end = null; // the first reason to end, kept while the last frames are shown
  #nextEventId = 1;
  #requests = new Requests();
  #stats = new SessionStats();
  #onVisibility = () => {
    this.#stats.controlLatency.clear(); // nothing was shown in a hidden page
    if (!document.hidden) this.#wire.sendAck();
    this.#tellVisibility();
  };

  /**
   * world: the answer of /v1/world.
   * listeners: onOpened(message), onMoved(message), onState(state, detail), onFrameShown(),
   * onChunk(chunk): see LineMeter.finish, onPreview({ chunkIndex, image }), onCodec(codec),
   * onCodecFailed(): JPEG is wanted, onNotice(text), onPace(message),
   * onEnding(message or null if it is taken back), onEnd({ code, reason, error, opened }).
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
      onMessage: (...received) => this.#handleMessage(...received),
      onClose: (close) => this.#finish(close),
    });
    document.addEventListener("visibilitychange", this.#onVisibility);
  }

  get state() {
    return this.#state;
  }

  get stats() {
    return this.#stats.at(performance.now());
  }

  hold(keys) {
    const transitions = [{ actions: keys, client_ts_ms: performance.now() | 0 }];
    const eventId = this.#sendEvent("camera_actions", { mode: "state", transitions });
    this.#stats.controlLatency.send(eventId, performance.now());
  }

  changePrompt(prompt) {
    this.#sendEvent("prompt", prompt);
  }

  /** Changes the encoding of the next chunks. `fields` are output fields of an init. */
  changeOutput(fields) {
    if (this.#wire.changeInit(fields)) return; // its answer is no control_ack
    this.#stats.line.await(this.#sendEvent("output", fields));
  }

  /**
   * Asks for what concerns the whole world: "save", "fork" or "rewind", with its payload.
   * Resolves to the server's answer. Rejects with a text for the user.
   */
  ask(kind, payload = null) {
    if (!["playing", "paused"].includes(this.#state)) return Promise.reject(new Error(CLOSED));
    return this.#requests.add(this.#sendEvent(kind, payload));
  }

  /** Ends a pause, as a key does. */
  resume() {
    this.#tellVisibility();
  }

  close() {
    document.removeEventListener("visibilitychange", this.#onVisibility);
    this.#wire.close();
    this.#player.close();
    this.#state = "ended"; // first: who asked is silent after an end
    this.#requests.end(CLOSED);
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

  #handleMessage(message, numBytes, headerMs) {
    this.#stats.receive(performance.now(), message, { numBytes, headerMs });
    switch (message.type) {
      case "frame_batch":
        this.#error = null;
        this.#player.addBatch(message);
        break;
      case "chunk_stats":
        this.#countChunk(this.#stats.addChunk(message));
        break;
      case "control_ack":
        this.#stats.line.accept(message.event_id);
        break;
      case "session":
        this.#stats.set({ mediaFps: message.fps });
        this.#player.setPace({ fps: message.fps, chunkFrames: message.chunk_frames });
        this.#listeners.onOpened(message);
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
        this.#handleResumed();
        break;
      case "paced":
        this.#listeners.onPace(message);
        break;
      case "ending":
        this.#listeners.onEnding(message);
        break;
      case "last_frame":
        this.#player
          .showFile(new Blob([message.data], { type: message.content_type }))
          .catch(() => this.#listeners.onNotice(DECODE_FAILED.none));
        break;
      case "rewound":
        this.#player.flush();
        this.#stats.set({ shownChunkIndex: message.world_chunk_index });
        this.#requests.settle(message);
        break;
      case "snapshot":
      case "forked":
        this.#requests.settle(message);
        break;
      case "moved":
        this.#listeners.onMoved(message);
        break;
      case "reconnect": // the close that follows says when to resume
        this.#listeners.onNotice(RECONNECT);
        break;
      case "warning":
        this.#listeners.onNotice(message.content);
        if (message.code === "codec_failed") this.#listeners.onCodecFailed();
        break;
      case "error":
        this.#handleError(message);
        break;
    }
  }

  #countChunk(chunk) {
    const isWatched = !this.#isPaused && !document.hidden;
    if (chunk !== null && isWatched) this.#listeners.onChunk(chunk);
  }

  #handleResumed() {
    this.#isPaused = false;
    this.#player.restart();
    this.#stats.restart();
    this.#listeners.onEnding(null);
    this.#setState(this.#stats.hasChunk ? "playing" : "opening");
  }

  #handleError(error) {
    if (this.#requests.settle(error)) return;
    if (!Number.isInteger(error.event_id)) this.#error = error; // else an event was refused
    if (this.#error !== error || this.#state === "playing" || this.#isPaused)
      this.#listeners.onNotice(error.content);
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
    this.#stats.set(stats);
    switch (report) {
      case "decoded":
        this.#countBatch(details.header, details.numFrames);
        if (details.numFrames > 0 && !this.#isPaused) this.#setState("playing");
        break;
      case "shown":
        this.#stats.controlLatency.show(details.eventIds, performance.now());
        this.#stats.set({ shownChunkIndex: details.worldChunkIndex });
        this.#listeners.onFrameShown();
        break;
      case "preview":
        this.#listeners.onPreview({ chunkIndex: details.worldChunkIndex, image: details.image });
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
    const { codec } = this.#stats;
    this.#stats.addBatch(performance.now(), header, numFrames);
    if (codec !== this.#stats.codec) this.#listeners.onCodec(this.#stats.codec);
    if (!header.is_final_frame_batch) return;
    this.#stats.line.addDecoded(performance.now(), header.chunk_index);
    this.#wire.acknowledge(header.chunk_index);
  }

  #recover(recovery) {
    this.#listeners.onNotice(DECODE_FAILED[recovery]);
    if (recovery === "key_frame") this.#sendEvent("key_frame", null);
    if (recovery === "jpeg") this.#listeners.onCodecFailed();
  }

  #setState(state, detail) {
    if (this.#state === "ended" || (state === "playing" && this.#state === state)) return;
    this.#state = state;
    this.#listeners.onState(state, detail);
  }
}
