/** Decodes the frame batches of one session in order and paints each frame when it is due. */

import { Decoder, release } from "./decoder.js";
import { JitterBuffer } from "./jitter_buffer.js";

const PREVIEW_PERIOD_MS = 1000; // previews are made of the first frame of a chunk, and no oftener

export class FramePlayer {
  #canvas;
  #emit;
  #buffer;
  #decoder = new Decoder();
  #decoding = Promise.resolve(); // a chain: batches decode in the order of their arrival
  #numReceived = 0;
  #numInChunk = 0; // frames of the arriving chunk, undecodable ones included
  #numFlushes = 0;
  #draining = false;
  #lastPreview = { atMs: -PREVIEW_PERIOD_MS, chunkIndex: null };
  #closed = false;
  #paused = false;

  /**
   * onReport({ report, stats, ... }): `report` is one of
   * "decoded" with numFrames and header, "shown" with width, height, eventIds and worldChunkIndex,
   * "preview" with image (an ImageBitmap), worldChunkIndex and numFlushes before its frame,
   * "decode_failed" with recovery ("none", "key_frame" or "jpeg"), "finished".
   */
  constructor({ fps, chunkFrames, canvas, onReport }) {
    this.#canvas = canvas;
    this.#emit = (report, details) => onReport({ report, ...details, stats: this.#stats });
    this.#buffer = new JitterBuffer({
      fps,
      chunkFrames,
      onDrop: (frame) => release(frame.image),
    });
  }

  get hasShownFrame() {
    return this.#buffer.numShown > 0;
  }

  setPace({ fps, chunkFrames }) {
    Object.assign(this.#buffer, { fps, chunkFrames });
  }

  addBatch(message) {
    this.#decoding = this.#decoding
      .then(() => this.#queue(message))
      .catch(() => this.#emit("decode_failed", { recovery: "none" })); // keeps the chain alive
  }

  /** Drops the frames of the batches so far, once they are decoded. */
  flush() {
    this.#decoding = this.#decoding.then(() => {
      this.#numFlushes += 1;
      this.#buffer.flush();
    });
  }

  /** A hidden page shows no frames. Frames due in that time do not count as late. */
  pause(paused) {
    this.#paused = paused;
    this.#buffer.restart();
  }

  /** Emits "finished" once all batches are decoded and, with `drain`, shown. */
  finish(drain) {
    this.#decoding = this.#decoding.then(() => {
      if (this.#closed) return;
      this.#buffer.drain();
      if (drain && this.#buffer.length > 0) this.#draining = true;
      else this.#emit("finished");
    });
  }

  close() {
    this.#closed = true;
    this.#decoder.close();
    this.#buffer.clear();
  }

  /** Runs once for each refresh of the display. */
  tick(nowMs) {
    const frame = this.#paused ? null : this.#buffer.take(nowMs);
    if (frame !== null) {
      this.#show(frame);
      this.#makePreview(nowMs, frame);
    }
    if (this.#draining && this.#buffer.length === 0) {
      this.#draining = false;
      this.#emit("finished");
    }
  }

  async #queue(message) {
    if (this.#closed) return;
    const images = await this.#decode(message);
    if (this.#closed) {
      images.forEach(release);
      return;
    }
    const startsChunk = message.frame_batch_index === 0;
    if (startsChunk) this.#numInChunk = 0;
    const eventIds = startsChunk ? (message.applied_controls?.event_ids ?? []) : [];
    const frames = images.map((image, index) => ({
      image,
      chunkIndex: message.chunk_index,
      worldChunkIndex: message.world_chunk_index ?? 0,
      frameIndex: this.#numInChunk + index,
      eventIds: index === 0 ? eventIds : [],
    }));
    this.#numInChunk += message.num_frames;
    this.#numReceived += frames.length;
    this.#buffer.push(performance.now(), frames, {
      startsChunk,
      endsChunk: message.is_final_frame_batch,
      flushesOlder: message.cut_over,
    });
    this.#emit("decoded", { numFrames: frames.length, header: { ...message, payload: null } });
  }

  /** Returns no images for a batch that cannot be decoded; the session goes on. */
  async #decode(message) {
    try {
      return await this.#decoder.decode(message);
    } catch (error) {
      if (!this.#closed) this.#emit("decode_failed", { recovery: error.recovery ?? "none" });
      return [];
    }
  }

  #show(frame) {
    const { image, eventIds, worldChunkIndex } = frame;
    const { width, height } = image;
    this.#canvas.paintFrame(frame);
    release(image);
    this.#emit("shown", { width, height, eventIds, worldChunkIndex });
  }

  /** Makes a preview of the frame on the canvas if it is the first of its chunk and one is due. */
  #makePreview(nowMs, { chunkIndex, worldChunkIndex }) {
    const { atMs, chunkIndex: lastIndex } = this.#lastPreview;
    const startsChunk = chunkIndex !== lastIndex;
    if (startsChunk) this.#lastPreview.chunkIndex = chunkIndex;
    if (!startsChunk || nowMs - atMs < PREVIEW_PERIOD_MS) return;
    this.#lastPreview.atMs = nowMs;
    const numFlushes = this.#numFlushes;
    this.#canvas.makePreview().then(
      (image) => this.#emit("preview", { image, worldChunkIndex, numFlushes }),
      () => {}, // the strip lacks a moment, and nobody misses it
    );
  }

  get #stats() {
    const buffer = this.#buffer;
    return {
      framesReceived: this.#numReceived,
      framesShown: buffer.numShown,
      framesLate: buffer.numLate,
      framesDropped: buffer.numDropped,
      framesCut: buffer.numFlushed,
      framesQueued: buffer.length,
      bufferMs: buffer.bufferedMs,
      targetMs: buffer.targetMs,
    };
  }
}
