/** What the next init opens: the session that was lost, else its last snapshot, else the choice. */

export class Source {
  #chosen; // fields of an init
  #prompt = {}; // the field of an init, once it has changed
  #token = null;
  #snapshot = null;

  constructor(chosen) {
    this.#chosen = chosen;
  }

  /** "session", "snapshot" or "choice". */
  get kind() {
    if (this.#token !== null) return "session";
    return this.#snapshot === null ? "choice" : "snapshot";
  }

  /** Fields of an init. */
  get fields() {
    if (this.#token !== null) return { resume: this.#token };
    const world = this.#snapshot === null ? this.#chosen : { snapshot: this.#snapshot };
    return { ...world, ...this.#prompt }; // a snapshot may be older than the prompt
  }

  /** token: of the session that is open now, or null if it cannot be resumed. */
  setToken(token) {
    this.#token = token;
  }

  /** The user has changed the world's prompt. */
  setPrompt(prompt) {
    this.#prompt = { prompt };
  }

  setSnapshot(snapshot) {
    this.#snapshot = snapshot;
  }

  /** The server does not take what `fields` returned. The next best source takes its place. */
  drop() {
    if (this.#token !== null) this.#token = null;
    else this.#snapshot = null;
  }
}
