/** Payloads to pictures: one decoder for each way that frames travel. */

import { H264Decoder } from "./h264.js";
import { DeltaDecoder, decodeRaw } from "./pixels.js";
import { decodeStills } from "./picture.js";

export class Decoder {
  #deltas = new DeltaDecoder();
  #video = new H264Decoder();

  /** The pictures of one batch, in order: ImageData or ImageBitmap. Batches come one by one. */
  async decode(message) {
    switch (message.content_type) {
      case "application/x-raw-rgb":
        return decodeRaw(message);
      case "application/x-delta-zstd-rgb":
        return this.#deltas.decode(message);
      case "video/h264":
        return this.#video.decode(message);
      default:
        return decodeStills(message);
    }
  }

  close() {
    this.#video.close();
  }
}

/** Gives a bitmap's memory back at once; ImageData is left to the collector. */
export function release(picture) {
  if (picture instanceof ImageBitmap) picture.close();
}
