/** Pictures that a walk begins with: a person's file to bytes, an opening to what is seen of it. */

const UPLOAD_SIDE = 1280; // px; a PNG of this size stays well under the 8 MiB of an init

/** An image as the server will crop it: a bitmap that covers width x height from the centre. */
export async function cropCover(url, [width, height]) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const scale = Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [across, down] = [width / scale, height / scale];
  const [left, top] = [(image.naturalWidth - across) / 2, (image.naturalHeight - down) / 2];
  return createImageBitmap(image, left, top, across, down, {
    resizeWidth: width,
    resizeHeight: height,
    resizeQuality: "high",
  });
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
