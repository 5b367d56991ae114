/** MessagePack maps over one WebSocket. A batch split into header and payload is joined here. */

const { encode, decode } = globalThis.MessagePack;

export class Wire {
  #socket;
  #init;
  #header = null; // a frame_batch_header; the next message is its bare payload
  #headerMs = null; // when it came
  #unacknowledged = null; // index of the newest chunk that arrived in a hidden page

  /**
   * Opens the socket and sends `init` first.
   * onMessage(message, numBytes, headerMs): every server message; frame_batch_header arrives as
   * frame_batch. `headerMs` is when its header came, if that came alone, else null.
   * onClose({ code, reason, opened }): called once; not called after close() on this side.
   */
  constructor(url, init, { onMessage, onClose }) {
    let opened = false;
    this.#init = init;
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => {
      opened = true;
      this.send(this.#init);
    };
    this.#socket.onmessage = (event) => this.#receive(new Uint8Array(event.data), onMessage);
    this.#socket.onclose = ({ code, reason }) => onClose({ code, reason, opened });
  }

  /** Changes the init. Returns false if that was sent before: then nothing has changed. */
  changeInit(fields) {
    if (this.#socket.readyState !== WebSocket.CONNECTING) return false;
    this.#init = { ...this.#init, ...fields };
    return true;
  }

  /** Sends a message; drops it if the socket is not open. */
  send(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(encode(message));
  }

  /**
   * Acknowledges this chunk and all before it. A hidden page does not, so that its world rests
   * even before the server has paused it.
   */
  acknowledge(chunkIndex) {
    this.#unacknowledged = chunkIndex;
    if (!document.hidden) this.sendAck();
  }

  /** The page is shown again: acknowledges what arrived meanwhile. */
  sendAck() {
    if (this.#unacknowledged === null) return;
    this.send({ type: "ack", chunk_index: this.#unacknowledged });
    this.#unacknowledged = null;
  }

  close() {
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close(1000);
  }

  #receive(data, onMessage) {
    if (this.#header !== null) {
      const message = { ...this.#header, type: "frame_batch", payload: data };
      this.#header = null;
      onMessage(message, data.length, this.#headerMs);
      return;
    }
    const message = decode(data);
    if (message.type === "frame_batch_header") {
      this.#header = message;
      this.#headerMs = performance.now();
    } else {
      onMessage(message, data.length, null);
    }
  }
}
