/** Measures the line, the server and this device with each chunk. Pure; time is an argument. */

const MAX_SHARE_UNSEEN = 2 / 3; // of a chunk's bytes that came before its first measured moment
const MIN_RATE_BYTES = 5_000; // fewer bytes measure the encoder instead of the line
const NUM_RATES = 12;
const NTH_BEST = 3; // a page that stands still gets all messages of a chunk at once, as by a fast line
const CLEARLY_LONGER = 1.25; // than encoding: then the line was the bottleneck

export class LineMeter {
  #chunk = null; // the arriving chunk
  #ended = new Map(); // chunk index to when its last byte came, until it is decoded
  #decodeMs = 0; // from the last byte of the newest decoded chunk until it was decoded
  #rates = []; // bytes per ms of the last chunks that were large enough
  #awaitedId = null; // the event id of a change of output that the server has not read yet

  /**
   * Bytes per ms of the line: the third best of the last chunks, or null without one. The line may be
   * faster: a chunk also waits for its encoder.
   */
  get rate() {
    const best = [...this.#rates].sort((a, b) => b - a).slice(0, NTH_BEST);
    return best.at(-1) ?? null;
  }

  /** A change of output was sent with this event id. Chunks before its answer show the old one. */
  await(eventId) {
    this.#awaitedId = eventId;
  }

  /** The server has read the event of this id. */
  accept(eventId) {
    if (eventId === this.#awaitedId) this.#awaitedId = null;
  }

  /**
   * A frame batch has arrived at `nowMs`. beganMs: when its header came, if that came in a message of
   * its own, else null.
   */
  addBatch(nowMs, { chunkIndex, numBytes, beganMs }) {
    if (this.#chunk?.chunkIndex !== chunkIndex) {
      this.#chunk = {
        chunkIndex,
        beganMs: beganMs ?? nowMs,
        numBytes: 0,
        numBatches: 0,
        numUnseen: beganMs === null ? numBytes : 0, // bytes that came before `beganMs`
        isSettled: this.#awaitedId === null,
      };
    }
    this.#chunk.numBytes += numBytes;
    this.#chunk.numBatches += 1;
    this.#chunk.endedMs = nowMs;
    this.#ended.set(chunkIndex, nowMs);
  }

  /** All frames of the chunk are decoded. */
  addDecoded(nowMs, chunkIndex) {
    this.#decodeMs = nowMs - (this.#ended.get(chunkIndex) ?? nowMs);
    for (const index of this.#ended.keys()) if (index <= chunkIndex) this.#ended.delete(index);
  }

  /**
   * stats: the chunk's `chunk_stats`. fps: the media rate, or null before the session is open.
   *
   * Returns null without a chunk, else
   * mediaMs: the time that its frames last; periodMs: from chunk to chunk, with all waits;
   * serverMs: what the slowest of denoising, decoding and encoding took, which overlap;
   * decodeMs: what this device took after the last byte of a chunk;
   * transferMs: what the line took for all bytes, or null if too few of them were measured; 0 if
   * its bytes came as they were encoded, so that the line is at least as fast;
   * numBytes; isSettled: false if its encoding is older than the last change.
   */
  finish(stats, fps) {
    const chunk = this.#chunk;
    this.#chunk = null;
    if (chunk === null || fps === null) return null;
    const { beganMs, endedMs, numBytes, numBatches, numUnseen, isSettled } = chunk;
    const buildMs = stats.raw_payload_build_ms;
    const measuredMs = endedMs - beganMs;
    this.#addRate(numBytes - numUnseen, measuredMs);
    const isMeasured = numUnseen < MAX_SHARE_UNSEEN * numBytes;
    // The server encodes later batches while the line carries earlier ones, so that the longer of
    // both times is measured, not their sum. The wait for the first batch came before `beganMs`.
    const encodingMs = (buildMs * (numBatches - 1)) / numBatches;
    const lineMs = measuredMs > CLEARLY_LONGER * encodingMs ? measuredMs : 0;
    return {
      mediaMs: (1000 * stats.num_frames) / fps,
      periodMs: stats.chunk_total_ms,
      serverMs: Math.max(slowerOfForward(stats), buildMs),
      transferMs: isMeasured ? (lineMs * numBytes) / (numBytes - numUnseen) : null,
      decodeMs: this.#decodeMs,
      numBytes,
      isSettled,
    };
  }

  #addRate(numBytes, ms) {
    if (numBytes < MIN_RATE_BYTES) return;
    this.#rates.push(numBytes / Math.max(1, ms));
    if (this.#rates.length > NUM_RATES) this.#rates.shift();
  }
}

/**
 * The ms of the slower of denoising and decoding: `scheduler_forward_ms` is their sum, but a chunk is
 * decoded while the next one is denoised. What a period has beside its wait for its turn is denoising.
 */
function slowerOfForward({
  chunk_total_ms: periodMs,
  pace_wait_ms: waitMs,
  scheduler_forward_ms: forwardMs,
}) {
  const denoisingMs = Math.max(0, Math.min(forwardMs, periodMs - waitMs));
  return Math.max(denoisingMs, forwardMs - denoisingMs);
}
