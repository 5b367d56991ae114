/** Frames that travel as pixels: as they are, or as zstd of each one's difference to the last. */

import "../vendor/fzstd.min.js";

/** Frames back to back, RGB, to one ImageData each. */
export function decodeRaw({ payload, width, height, num_frames }) {
  const size = width * height * 3;
  if (payload.length !== num_frames * size) throw new Error(`${payload.length} bytes of pixels`);
  return Array.from({ length: num_frames }, (_, index) =>
    toImage(payload.subarray(index * size, (index + 1) * size), width, height),
  );
}

/** Differences are modulo 256, which is what a Uint8Array adds in. */
export class DeltaDecoder {
  #before = null; // { chunkIndex, batchIndex, pixels: of its last frame }

  /** Throws where a batch is broken, or the one before it of the same chunk was. */
  decode(message) {
    const { payload, width, height, num_frames, chunk_index, frame_batch_index } = message;
    const before = this.#takeBefore(chunk_index, frame_batch_index);
    const pixels = globalThis.fzstd.decompress(payload);
    const images = decodeRaw({
      payload: undo(pixels, before, width * 3, width * height * 3),
      width,
      height,
      num_frames,
    });
    const last = pixels.subarray(pixels.length - width * height * 3);
    this.#before = { chunkIndex: chunk_index, batchIndex: frame_batch_index, pixels: last };
    return images;
  }

  /** The last frame of the batch before, or null for a chunk's first batch. */
  #takeBefore(chunkIndex, batchIndex) {
    const before = this.#before;
    this.#before = null;
    if (batchIndex === 0) return null;
    if (before?.chunkIndex !== chunkIndex || before.batchIndex !== batchIndex - 1) {
      throw new Error("the batch before is missing");
    }
    return before.pixels;
  }
}

/** Sums the differences up in place; `rowSize` and `frameSize` in bytes. */
function undo(pixels, before, rowSize, frameSize) {
  if (before === null) {
    for (let row = 0; row < frameSize; row += rowSize) {
      for (let at = row + 3; at < row + rowSize; at++) pixels[at] += pixels[at - 3];
    }
  } else {
    for (let at = 0; at < frameSize; at++) pixels[at] += before[at];
  }
  for (let at = frameSize; at < pixels.length; at++) pixels[at] += pixels[at - frameSize];
  return pixels;
}

function toImage(pixels, width, height) {
  const image = new ImageData(width, height);
  const rgba = new Uint32Array(image.data.buffer); // little-endian, as every browser's machine is
  for (let pixel = 0, at = 0; pixel < rgba.length; pixel++, at += 3) {
    rgba[pixel] = 0xff000000 | (pixels[at + 2] << 16) | (pixels[at + 1] << 8) | pixels[at];
  }
  return image;
}
