/** Decodes frame batches: one decoder for each encoding of the wire. */

import { H264Decoder } from "./h264.js";
import { decodePictures } from "./picture.js";
import { DeltaDecoder, decodeRaw } from "./pixels.js";

export class Decoder {
  #deltas = new DeltaDecoder();
  #video = new H264Decoder();

  /**
   * Returns one ImageData or ImageBitmap a frame, in order. Rejects if the batch cannot be decoded.
   * The caller awaits each batch before the next.
   */
  async decode(message) {
    switch (message.content_type) {
      case "application/x-raw-rgb":
        return decodeRaw(message);
      case "application/x-delta-zstd-rgb":
        return this.#deltas.decode(message);
      case "video/h264":
        return this.#video.decode(message);
      default:
        return decodePictures(message);
    }
  }

  close() {
    this.#video.close();
  }
}

/** Frees the memory of an ImageBitmap at once. ImageData is left to the garbage collector. */
export function release(image) {
  if (image instanceof ImageBitmap) image.close();
}
