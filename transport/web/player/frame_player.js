/** One walk's frames in the worker: decoded in order, queued, painted when their turn comes. */

import { Decoder, release } from "./decoder.js";
import { Playback } from "./jitter_buffer.js";

export class Projection {
  #surface;
  #tell;
  #playback;
  #decoder = new Decoder();
  #decoding = Promise.resolve(); // in the order the batches came, however long each takes
  #numReceived = 0;
  #numInChunk = 0; // frames of the chunk that arrives, spoiled ones too
  #draining = false;
  #closed = false;

  paused = false;

  /** tell({ report, figures, ... }): what the page is told. */
  constructor({ fps, chunkFrames, surface, tell }) {
    this.#surface = surface;
    this.#tell = (report, details) => tell({ report, ...details, figures: this.#figures });
    this.#playback = new Playback({
      fps,
      chunkFrames,
      onDrop: (frame) => release(frame.picture),
    });
  }

  get hasShown() {
    return this.#playback.numShown > 0;
  }

  pace({ fps, chunkFrames }) {
    Object.assign(this.#playback, { fps, chunkFrames });
  }

  add(message) {
    this.#decoding = this.#decoding
      .then(() => this.#queue(message))
      .catch(() => this.#tell("spoiled", { remedy: "none" })); // the next batch has its chance
  }

  /** A hidden page shows nothing: that time is not late. */
  pause(paused) {
    this.paused = paused;
    this.#playback.restart();
  }

  /** Tells "finished" once all that came is decoded and, with `drain`, shown. */
  finish(drain) {
    this.#decoding = this.#decoding.then(() => {
      if (this.#closed) return;
      this.#playback.drain();
      if (drain && this.#playback.length > 0) this.#draining = true;
      else this.#tell("finished");
    });
  }

  close() {
    this.#closed = true;
    this.#decoder.close();
    this.#playback.clear();
  }

  /** Once for each refresh of the screen. */
  tick(now) {
    const frame = this.paused ? null : this.#playback.take(now);
    if (frame !== null) this.#show(frame);
    if (this.#draining && this.#playback.length === 0) {
      this.#draining = false;
      this.#tell("finished");
    }
  }

  async #queue(message) {
    if (this.#closed) return;
    const pictures = await this.#decode(message);
    if (this.#closed) {
      pictures.forEach(release);
      return;
    }
    const opensChunk = message.frame_batch_index === 0;
    if (opensChunk) this.#numInChunk = 0;
    const eventIds = opensChunk ? (message.applied_controls?.event_ids ?? []) : [];
    const frames = pictures.map((picture, index) => ({
      picture,
      chunkIndex: message.chunk_index,
      frameIndex: this.#numInChunk + index,
      eventIds: index === 0 ? eventIds : [],
    }));
    this.#numInChunk += message.num_frames;
    this.#numReceived += frames.length;
    this.#playback.push(performance.now(), frames, {
      opensChunk,
      endsChunk: message.is_final_frame_batch,
      cutsOver: message.cut_over,
    });
    this.#tell("decoded", { numFrames: frames.length, header: { ...message, payload: null } });
  }

  /** A batch that cannot be decoded has no pictures; the walk goes on. */
  async #decode(message) {
    try {
      return await this.#decoder.decode(message);
    } catch (error) {
      if (!this.#closed) this.#tell("spoiled", { remedy: error.remedy ?? "none" });
      return [];
    }
  }

  #show(frame) {
    const { picture, eventIds } = frame;
    const { width, height } = picture;
    this.#surface.paint(frame);
    release(picture);
    this.#tell("shown", { width, height, eventIds });
  }

  get #figures() {
    const playback = this.#playback;
    return {
      framesReceived: this.#numReceived,
      framesShown: playback.numShown,
      framesLate: playback.numLate,
      framesDropped: playback.numDropped,
      framesCut: playback.numCut,
      framesQueued: playback.length,
      bufferMs: playback.leftMs,
      targetMs: playback.targetMs,
    };
  }
}
