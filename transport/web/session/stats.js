/** What the HUD measures: a rate over the last seconds, and control-to-frame time. */

const WINDOW_MS = 3000;

/**
 * Amount per second over about the last three seconds. Amounts come in bursts (a chunk at a time),
 * so the window opens at a burst; while nothing comes for longer than usual, the rate falls.
 */
export class Rate {
  #bursts = []; // { at, amount }, oldest first; the oldest only opens the window

  add(now, amount) {
    this.#bursts.push({ at: now, amount });
    while (this.#bursts.length > 2 && this.#bursts[1].at <= now - WINDOW_MS) this.#bursts.shift();
  }

  /** Per second at `now` (ms), or null before two bursts. */
  at(now) {
    const [first, ...rest] = this.#bursts;
    if (rest.length === 0) return null;
    const last = rest.at(-1).at;
    const usual = (last - first.at) / rest.length;
    const until = now - last > 1.5 * usual ? now : last;
    const sum = rest.reduce((total, burst) => total + burst.amount, 0);
    return (1000 * sum) / Math.max(1, until - first.at);
  }
}

/** From a control's sending to the first displayed frame of the first chunk that it shaped. */
export class ControlTime {
  #sent = new Map(); // event id to ms

  last = null; // ms; where one chunk took several controls, the one that waited longest

  send(eventId, now) {
    this.#sent.set(eventId, now);
  }

  show(eventIds, now) {
    const waited = eventIds
      .filter((id) => this.#sent.has(id))
      .map((id) => now - this.#sent.get(id));
    // Older ones will not come: superseded, refused, or their frames were dropped.
    const newest = Math.max(...eventIds);
    for (const id of this.#sent.keys()) if (id <= newest) this.#sent.delete(id);
    if (waited.length > 0) this.last = Math.max(...waited);
  }

  /** Forgets what is under way: nobody was looking when its frame was due. */
  clear() {
    this.#sent.clear();
  }
}
