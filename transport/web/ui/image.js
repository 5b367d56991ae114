/** Images that a session can start from: uploads, and previews of openings. */

const MAX_UPLOAD_PX = 1280; // a PNG with this side stays well under the 8 MiB of an init

/** Crops an image as the server does: an ImageBitmap of width x height, from the centre. */
export async function cropToCover(url, [width, height]) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const scale = Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [cropWidth, cropHeight] = [width / scale, height / scale];
  const left = (image.naturalWidth - cropWidth) / 2;
  const top = (image.naturalHeight - cropHeight) / 2;
  return createImageBitmap(image, left, top, cropWidth, cropHeight, {
    resizeWidth: width,
    resizeHeight: height,
    resizeQuality: "high",
  });
}

/**
 * Converts a file to a PNG of at most MAX_UPLOAD_PX a side, upright and without metadata.
 * Returns { bytes, url }. Rejects if the browser cannot read the file as an image.
 */
export async function readUpload(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MAX_UPLOAD_PX / Math.max(bitmap.width, bitmap.height));
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
