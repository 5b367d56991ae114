/** Pictures: payloads to drawables, drawables to the canvas, a person's file to bytes. */

const UPLOAD_SIDE = 1280; // px; a PNG of this size stays well under the 8 MiB of an init

/**
 * One frame_batch to drawables, in order: ImageData for raw, ImageBitmap for an encoded one.
 * Rejects where one of them cannot be decoded; then none is kept.
 */
export async function decodeBatch(message) {
  if (message.content_type === "application/x-raw-rgb") return decodeRaw(message);
  const blobs = [];
  let start = 0;
  for (const length of message.payload_lengths) {
    blobs.push(
      new Blob([message.payload.subarray(start, start + length)], { type: message.content_type }),
    );
    start += length;
  }
  const settled = await Promise.allSettled(blobs.map((blob) => createImageBitmap(blob)));
  const failure = settled.find(({ status }) => status === "rejected");
  if (failure === undefined) return settled.map(({ value }) => value);
  settled.forEach(({ value }) => release(value));
  throw failure.reason;
}

function decodeRaw({ payload, width, height, num_frames }) {
  const numPixels = width * height;
  return Array.from({ length: num_frames }, (_, index) => {
    const image = new ImageData(width, height);
    const rgba = new Uint32Array(image.data.buffer); // little-endian, as every browser's machine is
    for (let pixel = 0, at = index * numPixels * 3; pixel < numPixels; pixel++, at += 3) {
      rgba[pixel] = 0xff000000 | (payload[at + 2] << 16) | (payload[at + 1] << 8) | payload[at];
    }
    return image;
  });
}

/** Paints a drawable in its own size; the page's CSS scales the canvas. */
export function paint(context, picture) {
  resize(context.canvas, picture.width, picture.height);
  if (picture instanceof ImageData) context.putImageData(picture, 0, 0);
  else context.drawImage(picture, 0, 0);
}

/** Paints an image as the server will crop it: covering width x height from the centre. */
export function paintCover(context, image, [width, height]) {
  resize(context.canvas, width, height);
  const scale = Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [across, down] = [image.naturalWidth * scale, image.naturalHeight * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (width - across) / 2, (height - down) / 2, across, down);
}

function resize(canvas, width, height) {
  if (canvas.width === width && canvas.height === height) return; // setting either clears it
  canvas.width = width;
  canvas.height = height;
  canvas.style.setProperty("--aspect", width / height);
}

/** Gives a bitmap's memory back at once; ImageData is left to the collector. */
export function release(picture) {
  if (picture instanceof ImageBitmap) picture.close();
}

/**
 * A file to PNG bytes of at most UPLOAD_SIDE pixels a side, upright, without its metadata.
 * Rejects where the browser cannot read the file as a picture.
 */
export async function readUpload(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, UPLOAD_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d", { alpha: false });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return { bytes: new Uint8Array(await blob.arrayBuffer()), url: URL.createObjectURL(blob) };
}
