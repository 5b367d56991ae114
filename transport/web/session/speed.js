/** Whether a world keeps up, and what holds it up: the server, the line or this device. Pure. */

const NUM_CHUNKS = 5;
const MIN_CHUNKS = 2;
const FULL_SHARE = 0.93; // of the media rate: a chunk may come a little late
const POOR_SHARE = 0.6;
const MAIN_SHARE = 0.75; // of a chunk's period, for the server to be what holds it up
const SOME_SHARE = 0.25; // and for the line or the device

/** The chunks of the last seconds. */
export class Speed {
  #chunks = [];

  /** chunk: see `LineMeter.finish`. */
  add(chunk) {
    this.#chunks.push(chunk);
    if (this.#chunks.length > NUM_CHUNKS) this.#chunks.shift();
  }

  /** Forgets the past: the session was paused, or its encoding has changed. */
  restart() {
    this.#chunks = [];
  }

  /**
   * Returns { share, level, cause }, or null with too few chunks. `share`: of the media rate that
   * arrives, at most 1. `level`: "good", "fair" or "poor". `cause`: "server", "line", "device" or "unclear" if it is too small, else null.
   */
  get verdict() {
    if (this.#chunks.length < MIN_CHUNKS) return null;
    const share = Math.min(1, medianShare(this.#chunks, "mediaMs"));
    const level = levelOf(share);
    return { share, level, cause: level === "good" ? null : this.#findCause() };
  }

  #findCause() {
    if (medianShare(this.#chunks, "serverMs") >= MAIN_SHARE) return "server";
    const measured = this.#chunks.filter(({ transferMs }) => transferMs !== null);
    const ofLine = medianShare(measured, "transferMs");
    const ofDevice = medianShare(this.#chunks, "decodeMs");
    if (Math.max(ofLine, ofDevice) < SOME_SHARE) return "unclear";
    return ofDevice > ofLine ? "device" : "line";
  }
}

function levelOf(share) {
  if (share >= FULL_SHARE) return "good";
  return share >= POOR_SHARE ? "fair" : "poor";
}

/** The median of a time's share of its chunk's period, or 0 without chunks. */
function medianShare(chunks, name) {
  const shares = chunks.map((chunk) => chunk[name] / Math.max(1, chunk.periodMs));
  shares.sort((a, b) => a - b);
  return shares[Math.floor(shares.length / 2)] ?? 0;
}
