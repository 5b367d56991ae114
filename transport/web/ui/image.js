/** Images that a session can start from: uploads, and previews of openings. */

import { readBytes } from "./file.js";

// An init holds 16 MiB by default. Its other fields need little.
const MAX_UPLOAD_BYTES = 16 * 2 ** 20 - 2 ** 16;
const MAX_UPLOAD_PX = 1280; // a PNG with this side is well below MAX_UPLOAD_BYTES
// What the server reads. Safari shows others, too, and a file without a type may be one of them.
const SENT_TYPES = ["png", "jpeg", "webp", "gif", "bmp", "tiff", "avif"].map(
  (name) => `image/${name}`,
);

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

/** The "WxH" of `sizes` whose shape is nearest to the image's, as the server would choose it. */
export async function nearestShape(url, sizes) {
  const { naturalWidth, naturalHeight } = await load(url);
  const distance = ([width, height]) =>
    Math.abs(Math.log((width * naturalHeight) / (height * naturalWidth)));
  const isReadable = naturalWidth > 0 && naturalHeight > 0; // otherwise the first
  return (isReadable ? [...sizes].sort((a, b) => distance(a) - distance(b)) : sizes)[0].join("x");
}

/** The image at a URL, which has no size if it cannot be read. */
async function load(url) {
  const image = new Image();
  await new Promise((resolve) => {
    image.onload = image.onerror = resolve; // decode() would reject a truncated file, which shows
    image.src = url;
  });
  return image;
}

/** True if the file says that it is a picture, or can be read as one. */
export async function isPicture(file) {
  if (file.type.startsWith("image/")) return true;
  const image = await load(URL.createObjectURL(file));
  URL.revokeObjectURL(image.src);
  return image.naturalWidth > 0;
}

/**
 * The picture of a file: { bytes, url }. The bytes of the file itself are sent, so that one decoder,
 * the server's, makes every first frame. Only what the server does not take is drawn here.
 *
 * Rejects with a message for the user.
 */
export async function readUpload(file) {
  const image = await load(URL.createObjectURL(file));
  if (image.naturalWidth === 0) {
    URL.revokeObjectURL(image.src);
    throw new Error(
      `${file.name} is not a picture that this browser can read. PNG, JPEG and WebP work.`,
    );
  }
  const isDrawn = file.size > MAX_UPLOAD_BYTES || !SENT_TYPES.includes(file.type);
  const blob = isDrawn ? await drawAsPng(image) : file;
  return { bytes: await readBytes(blob, file.name), url: image.src };
}

/** A PNG of at most MAX_UPLOAD_PX a side, upright. */
async function drawAsPng(image) {
  const scale = Math.min(1, MAX_UPLOAD_PX / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d", { alpha: false });
  if (!isReadable(context))
    throw new Error(
      "This browser does not let pages read what they draw. PNG, JPEG and WebP below 16 MiB work.",
    );
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** False where other pixels are read than drawn, as with Firefox's resistFingerprinting. */
function isReadable(context) {
  const colors = [
    [10, 200, 90],
    [240, 30, 160],
  ];
  return colors.every((color) => {
    context.fillStyle = `rgb(${color})`;
    context.fillRect(0, 0, 1, 1);
    const read = context.getImageData(0, 0, 1, 1).data;
    return color.every((value, at) => Math.abs(value - read[at]) < 8); // some add a little noise
  });
}
