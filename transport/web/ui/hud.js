/** The HUD: formats statistics as short texts, for people in the bar and for engineers behind a click. */

const PERIOD_MS = 250;

export class Hud {
  #cells;
  #nextMs = 0;

  /** stage: the element whose descendants with `data-stat` show a figure. */
  constructor(stage) {
    this.#cells = Object.fromEntries(
      [...stage.querySelectorAll("[data-stat]")].map((cell) => [cell.dataset.stat, cell]),
    );
  }

  /** Writes the statistics, at most once every PERIOD_MS so that they stay readable. */
  update(nowMs, stats) {
    if (nowMs < this.#nextMs) return;
    this.#nextMs = nowMs + PERIOD_MS;
    this.write(stats);
  }

  write(stats) {
    for (const [stat, text] of Object.entries(format(stats))) {
      const cell = this.#cells[stat];
      if (cell.textContent !== text) cell.textContent = text;
    }
  }
}

function format(stats) {
  return {
    fps: stats.fps === null ? "–" : String(Math.round(shownFps(stats))),
    delay: stats.controlMs === null ? "–" : `${(stats.controlMs / 1000).toFixed(1)} s`,
    rate: stats.fps?.toFixed(1) ?? "–",
    chunk: formatMs(stats.chunkMs),
    control: formatMs(stats.controlMs),
    codec: stats.codec ?? "–",
    transfer: formatMs(stats.transferMs),
    bytes: formatRate(stats.bytesPerSecond),
    buffer: formatMs(stats.bufferMs),
    index: String(stats.chunkIndex ?? "–"),
    late: String(stats.framesLate),
    dropped: String(stats.framesDropped + stats.framesDroppedByServer),
  };
}

/** A key makes a chunk come early, but frames are shown no faster than the world's own rate. */
function shownFps({ fps, mediaFps }) {
  return Math.min(fps, mediaFps ?? fps);
}

function formatMs(value) {
  return value === null ? "–" : `${Math.round(value)} ms`;
}

function formatRate(value) {
  if (value === null) return "–";
  return value < 1e6 ? `${Math.round(value / 1e3)} kB/s` : `${(value / 1e6).toFixed(1)} MB/s`;
}
