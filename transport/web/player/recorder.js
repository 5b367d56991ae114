/** Starts and ends recordings of what is shown. The player's worker makes their files. */

export class Recorder {
  #player;
  #isRecording = false;
  #onChange;
  #onFile;
  #onFail;

  /**
   * onChange(seconds): called each second of a recording, and with null when it ends.
   * onFile(blob, extension): called with the recording. onFail(): it has no frames.
   */
  constructor(player, { onChange, onFile, onFail }) {
    this.#player = player;
    this.#onChange = onChange;
    this.#onFile = onFile;
    this.#onFail = onFail;
  }

  toggle() {
    if (this.#isRecording) this.stop();
    else this.#start();
  }

  /** Ends the recording, if there is one. */
  stop() {
    if (!this.#isRecording) return;
    this.#isRecording = false;
    this.#player.stopRecording();
    this.#onChange(null);
  }

  #start() {
    this.#isRecording = true;
    this.#onChange(0);
    this.#player.startRecording({
      canEncode: canEncode(),
      onSecond: (seconds) => {
        if (this.#isRecording) this.#onChange(seconds);
      },
      onEnd: () => this.stop(),
      onFile: (blob, extension) => {
        if (blob === null) this.#onFail();
        else this.#onFile(blob, extension);
      },
    });
  }
}

function canEncode() {
  // WebKitGTK crashes if VideoEncoder is the first to ask GStreamer for its codecs.
  globalThis.MediaRecorder?.isTypeSupported("video/webm");
  return "VideoEncoder" in window;
}
