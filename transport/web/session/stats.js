/** Measurements for the HUD: rates over the last seconds, control-to-frame latency, and counts. */

import { LineMeter } from "./line.js";

const WINDOW_MS = 3000;

/**
 * Amount per second over about the last three seconds. Amounts come in bursts, a chunk at a time,
 * so the window starts at a burst. The rate falls once the next burst is overdue.
 */
export class Rate {
  #bursts = []; // { atMs, amount }, oldest first; the oldest only marks the start of the window

  add(nowMs, amount) {
    this.#bursts.push({ atMs: nowMs, amount });
    while (this.#bursts.length > 2 && this.#bursts[1].atMs <= nowMs - WINDOW_MS) {
      this.#bursts.shift();
    }
  }

  /** Amount per second at `nowMs`, or null before two bursts. */
  at(nowMs) {
    const [first, ...rest] = this.#bursts;
    if (rest.length === 0) return null;
    const lastMs = rest.at(-1).atMs;
    const intervalMs = (lastMs - first.atMs) / rest.length;
    const endMs = nowMs - lastMs > 1.5 * intervalMs ? nowMs : lastMs;
    const sum = rest.reduce((total, burst) => total + burst.amount, 0);
    return (1000 * sum) / Math.max(1, endMs - first.atMs);
  }
}

/** Time from sending a control to the first displayed frame of the first chunk that applies it. */
export class ControlLatency {
  #sentMs = new Map(); // event id to the time it was sent

  lastMs = null; // if one chunk applied several controls, the longest of their latencies

  send(eventId, nowMs) {
    this.#sentMs.set(eventId, nowMs);
  }

  show(eventIds, nowMs) {
    const latenciesMs = eventIds
      .filter((id) => this.#sentMs.has(id))
      .map((id) => nowMs - this.#sentMs.get(id));
    // Older controls will not come: superseded, refused, or their frames were dropped.
    const newest = Math.max(...eventIds);
    for (const id of this.#sentMs.keys()) if (id <= newest) this.#sentMs.delete(id);
    if (latenciesMs.length > 0) this.lastMs = Math.max(...latenciesMs);
  }

  /** Forgets the controls that are under way. */
  clear() {
    this.#sentMs.clear();
  }
}

/** The figures of one session: what its messages and its player report, and rates. */
export class SessionStats {
  #rates = newRates();
  #numBytes = 0; // since the last complete chunk
  #numChunkFrames = 0; // since the last complete chunk
  #figures = {
    mediaFps: null, // of the open session
    chunkIndex: null,
    worldChunkIndex: null, // of the newest chunk
    shownChunkIndex: null, // of the chunk on the screen, in its world
    chunkMs: null,
    transferMs: null, // what the line took for the newest chunk
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

  controlLatency = new ControlLatency();
  line = new LineMeter();

  /** A snapshot: ms, bytes per second, bytes per ms of the line, generated frames per second, and counts. */
  at(nowMs) {
    return {
      ...this.#figures,
      fps: this.#rates.frames.at(nowMs),
      bytesPerSecond: this.#rates.bytes.at(nowMs),
      controlMs: this.controlLatency.lastMs,
      lineRate: this.line.rate,
    };
  }

  get codec() {
    return this.#figures.codec;
  }

  get hasChunk() {
    return this.#figures.chunkIndex !== null;
  }

  set(figures) {
    Object.assign(this.#figures, figures);
  }

  /** A message of `numBytes` has arrived. headerMs: see `Wire`. */
  receive(nowMs, { type, chunk_index: chunkIndex }, { numBytes, headerMs }) {
    this.#numBytes += numBytes;
    if (type !== "frame_batch") return;
    this.line.addBatch(nowMs, { chunkIndex, numBytes, beganMs: headerMs });
  }

  addBatch(nowMs, header, numFrames) {
    this.set({
      codec: header.encoding ?? header.format,
      chunkIndex: header.chunk_index,
      worldChunkIndex: header.world_chunk_index ?? 0,
      applied: header.applied_controls ?? null,
      framesDroppedByServer: header.dropped_frames ?? 0,
    });
    this.#numChunkFrames += numFrames;
    if (!header.is_final_frame_batch) return;
    this.#rates.frames.add(nowMs, this.#numChunkFrames);
    this.#rates.bytes.add(nowMs, this.#numBytes);
    this.#numChunkFrames = 0;
    this.#numBytes = 0;
  }

  /** message: `chunk_stats`. Returns what the chunk tells: see `LineMeter.finish`. */
  addChunk(message) {
    const chunk = this.line.finish(message, this.#figures.mediaFps);
    const transferMs = chunk?.transferMs ?? null;
    this.set({ chunkMs: message.scheduler_forward_ms, transferMs });
    return chunk;
  }

  /** Starts new rates: the time of a pause counts for none. */
  restart() {
    this.#rates = newRates();
  }
}

function newRates() {
  return { frames: new Rate(), bytes: new Rate() };
}
