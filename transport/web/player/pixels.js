/** Decodes frames that are pixels: raw, or zstd of the differences from frame to frame. */

import "../vendor/fzstd.min.js";

/** RGB frames back to back, to one ImageData each. Throws if the number of bytes is wrong. */
export function decodeRaw({ payload, width, height, num_frames }) {
  const frameBytes = width * height * 3;
  if (payload.length !== num_frames * frameBytes) {
    throw new Error(`expected ${num_frames * frameBytes} bytes of pixels, got ${payload.length}`);
  }
  return Array.from({ length: num_frames }, (_, index) =>
    toImage(payload.subarray(index * frameBytes, (index + 1) * frameBytes), width, height),
  );
}

/** Differences are modulo 256, like the arithmetic of a Uint8Array. */
export class DeltaDecoder {
  #previous = null; // { chunkIndex, batchIndex, pixels: of the batch's last frame }

  /** Throws if the batch cannot be decoded, or if the previous one of its chunk is missing. */
  decode(message) {
    const { payload, width, height, num_frames, chunk_index, frame_batch_index } = message;
    const previous = this.#takePrevious(chunk_index, frame_batch_index);
    const pixels = globalThis.fzstd.decompress(payload);
    const images = decodeRaw({
      payload: sumDeltas(pixels, previous, width * 3, width * height * 3),
      width,
      height,
      num_frames,
    });
    const last = pixels.subarray(pixels.length - width * height * 3);
    this.#previous = { chunkIndex: chunk_index, batchIndex: frame_batch_index, pixels: last };
    return images;
  }

  /** The last frame of the previous batch, or null for the first batch of a chunk. */
  #takePrevious(chunkIndex, batchIndex) {
    const previous = this.#previous;
    this.#previous = null;
    if (batchIndex === 0) return null;
    if (previous?.chunkIndex !== chunkIndex || previous.batchIndex !== batchIndex - 1) {
      throw new Error("the previous batch is missing");
    }
    return previous.pixels;
  }
}

/** Sums the differences up in place. */
function sumDeltas(pixels, previous, rowBytes, frameBytes) {
  if (previous === null) {
    for (let row = 0; row < frameBytes; row += rowBytes) {
      for (let at = row + 3; at < row + rowBytes; at++) pixels[at] += pixels[at - 3];
    }
  } else {
    for (let at = 0; at < frameBytes; at++) pixels[at] += previous[at];
  }
  for (let at = frameBytes; at < pixels.length; at++) pixels[at] += pixels[at - frameBytes];
  return pixels;
}

function toImage(pixels, width, height) {
  const image = new ImageData(width, height);
  const rgba = new Uint32Array(image.data.buffer); // little-endian, as on every browser's machine
  for (let pixel = 0, at = 0; pixel < rgba.length; pixel++, at += 3) {
    rgba[pixel] = 0xff000000 | (pixels[at + 2] << 16) | (pixels[at + 1] << 8) | pixels[at];
  }
  return image;
}
