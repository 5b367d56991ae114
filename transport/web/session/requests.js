/** Events that the server answers with a message of their own: their promises, by event id. */

export class Requests {
  #pending = new Map(); // event id to { resolve, reject }

  /** Resolves to the answer. Rejects with the text and the field of an error, or the text of `end`. */
  add(eventId) {
    return new Promise((resolve, reject) => this.#pending.set(eventId, { resolve, reject }));
  }

  /** Returns false for a message that answers no request. */
  settle(message) {
    const request = this.#pending.get(message.event_id);
    if (request === undefined) return false;
    this.#pending.delete(message.event_id);
    const { type, content, field } = message;
    if (type === "error") request.reject(Object.assign(new Error(content), { field }));
    else request.resolve(message);
    return true;
  }

  /** No answer will come any more. */
  end(text) {
    for (const { reject } of this.#pending.values()) reject(new Error(text));
    this.#pending.clear();
  }
}
