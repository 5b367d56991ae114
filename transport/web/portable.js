/** The open world as a whole: it is kept, saved to a file, rewound and forked. */

import { forkUrl } from "./server.js";
import { download } from "./ui/download.js";
import { formatClock } from "./ui/notices.js";
import { Timeline } from "./ui/timeline.js";
import { Autosave } from "./world/autosave.js";
import { keep } from "./world/kept.js";

const STEP_BACK_S = 5;
const NOT_KEPT = "The server does not keep that moment any more.";
const EXTENSION = "world";

const element = (id) => document.getElementById(id);

export class Portable {
  #toast;
  #timeline = new Timeline((chunkIndex) => this.#choose(chunkIndex));
  #session = null;
  #opened = null; // the `session` message
  #listeners = null;
  #autosave = null;
  #rewindingTo = null; // chunk of the newest rewind under way
  #cannotKeep = false;

  constructor(toast) {
    this.#toast = toast;
    element("save").addEventListener("click", () => this.save());
    element("fork").addEventListener("click", () => this.fork());
    element("step-back").addEventListener("click", () => this.stepBack());
    this.enabled = false;
  }

  set enabled(enabled) {
    for (const id of ["save", "fork", "step-back"]) element(id).disabled = !enabled;
    element("moments").inert = !enabled;
  }

  /** Another world begins: forgets the moments of the last one. */
  begin() {
    this.#timeline.clear();
    this.#opened = null;
  }

  /**
   * opened: the `session` message. onKept(snapshot): called when the world is kept.
   * describe(): what is kept beside the snapshot: { prompt, output }.
   */
  open(session, opened, listeners) {
    this.close();
    this.#session = session;
    this.#opened = opened;
    this.#listeners = listeners;
    this.#timeline.truncate(opened.world_chunk_index ?? 0);
    this.#timeline.dropUntil((opened.earliest_chunk_index ?? 0) - 1);
    this.#autosave = new Autosave(session, {
      onSaved: (message) => this.#keep(message),
      onFailed: ({ message }) => this.#toast.show(`This world is not kept: ${message}`),
    });
  }

  close() {
    this.enabled = false;
    this.#autosave?.stop();
    this.#autosave = null;
  }

  addMoment({ chunkIndex, image }) {
    const seconds = this.#secondsAt(chunkIndex);
    if (seconds !== null) this.#timeline.add({ chunkIndex, seconds, image });
  }

  /** Keeps the world now. Otherwise it is kept every 10 s. */
  async keep() {
    await this.#autosave?.save();
  }

  async save() {
    await this.#act("Saving the world.", async () => {
      const { data } = await this.#session.ask("save");
      download(new Blob([data]), EXTENSION);
      this.#toast.show("The world was saved to a file.");
    });
  }

  /** Opens a second world, with the same past, in a new tab. */
  async fork() {
    await this.#act("Forking the world.", async () => {
      const { token } = await this.#session.ask("fork");
      const url = forkUrl(token);
      if (window.open(url) !== null) this.#toast.hide();
      else this.#toast.keepLink("The browser opened no tab.", { name: "Open the fork", url });
    });
  }

  /** Steps back from what is shown, or from where the newest rewind leads. */
  stepBack() {
    const from = this.#rewindingTo ?? this.#session?.stats.shownChunkIndex ?? null;
    if (from === null || this.#opened === null) return;
    const { fps, chunk_frames: chunkFrames } = this.#opened;
    const numChunks = Math.max(1, Math.round((STEP_BACK_S * fps) / chunkFrames));
    const chunkIndex = Math.max(0, from - numChunks);
    // The server takes any number of seconds, but no chunk that it does not keep.
    const isKept = chunkIndex >= this.#timeline.earliest;
    this.#rewind(chunkIndex, isKept ? { chunk_index: chunkIndex } : { seconds: STEP_BACK_S });
  }

  #choose(chunkIndex) {
    element("timeline").hidePopover();
    this.#rewind(chunkIndex, { chunk_index: chunkIndex });
  }

  async #rewind(chunkIndex, payload) {
    this.#rewindingTo = chunkIndex;
    await this.#act("Going back.", async () => {
      try {
        const { world_chunk_index: index } = await this.#session.ask("rewind", payload);
        this.#timeline.truncate(index);
        this.#toast.show(`Back at ${formatClock(this.#secondsAt(index))}.`);
      } catch (error) {
        if (error.field !== "payload.chunk_index") throw error;
        this.#timeline.dropUntil(chunkIndex);
        this.#toast.show(NOT_KEPT);
      }
    });
    if (this.#rewindingTo === chunkIndex) this.#rewindingTo = null;
  }

  /** Shows the progress of an action, and its error in one line. */
  async #act(progress, act) {
    this.#toast.keep(progress);
    try {
      await act();
    } catch (error) {
      // An end has a text of its own.
      if (this.#session.state !== "ended") this.#toast.show(error.message);
    }
  }

  async #keep({ data, world_chunk_index: chunkIndex }) {
    this.#listeners.onKept(data);
    const kept = {
      snapshot: new Blob([data]),
      preview: this.#timeline.newestImage,
      seconds: this.#secondsAt(chunkIndex),
      savedAtMs: Date.now(),
      ...this.#listeners.describe(),
    };
    try {
      await keep(kept);
    } catch ({ message }) {
      if (!this.#cannotKeep) this.#toast.show(`This browser does not keep the world: ${message}`);
      this.#cannotKeep = true;
    }
  }

  /** The world's own time at the start of a chunk, or null before a session has opened. */
  #secondsAt(chunkIndex) {
    if (this.#opened === null) return null;
    const { fps, first_chunk_frames: firstFrames, chunk_frames: frames } = this.#opened;
    return chunkIndex === 0 ? 0 : (firstFrames + (chunkIndex - 1) * frames) / fps;
  }
}
