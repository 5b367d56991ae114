/** The HUD: figures to short words. */

const PERIOD_MS = 250;

export class Hud {
  #cells;
  #next = 0; // ms

  constructor(list) {
    this.#cells = Object.fromEntries(
      [...list.querySelectorAll("[data-figure]")].map((cell) => [cell.dataset.figure, cell]),
    );
  }

  /** Writes the figures, if the last time is long enough ago to be read. */
  update(now, stats) {
    if (now < this.#next) return;
    this.#next = now + PERIOD_MS;
    this.write(stats);
  }

  write(stats) {
    for (const [figure, text] of Object.entries(words(stats))) {
      const cell = this.#cells[figure];
      if (cell.textContent !== text) cell.textContent = text;
    }
  }
}

function words(stats) {
  return {
    fps: stats.fps?.toFixed(1) ?? "–",
    chunk: milliseconds(stats.chunkMs),
    control: milliseconds(stats.controlMs),
    codec: stats.codec ?? "–",
    bytes: bytesPerSecond(stats.bytesPerSecond),
    buffer: milliseconds(stats.bufferMs),
    index: String(stats.chunkIndex ?? "–"),
    late: String(stats.framesLate),
    dropped: String(stats.framesDropped + stats.framesDroppedByServer),
  };
}

function milliseconds(value) {
  return value === null ? "–" : `${Math.round(value)} ms`;
}

function bytesPerSecond(value) {
  if (value === null) return "–";
  return value < 1e6 ? `${Math.round(value / 1e3)} kB/s` : `${(value / 1e6).toFixed(1)} MB/s`;
}
