/** The choice of the video format, as far as this browser can decode it. */

export const AUTO = "auto"; // the line decides

const FORMATS = [
  [AUTO, "Automatic"], // first: the default
  ["jpeg", "JPEG: small"],
  ["webp", "WebP: smaller"],
  ["h264", "H.264: smallest"],
  ["delta-zstd", "zstd: lossless"],
  ["raw", "raw: lossless, large"],
];
const NAMES = { jpeg: "JPEG", webp: "WebP", h264: "H.264", "delta-zstd": "zstd" };
const H264 = "avc1.42c01f"; // baseline; the stream itself states its level

/** True if the format has a quality setting. */
export function isLossy(format) {
  return format !== "raw" && format !== "delta-zstd";
}

/** Fills a <select>. Without an H.264 decoder, the H.264 option is labelled so and selects JPEG. */
export async function offerFormats(select) {
  select.replaceChildren(...FORMATS.map(([format, label]) => new Option(label, format)));
  if (await canDecodeH264()) return;
  const option = select.querySelector("[value=h264]");
  Object.assign(option, { value: "jpeg", text: "H.264: not in this browser, JPEG" });
}

/** The name of a format in a sentence. */
export function formatName(format) {
  return NAMES[format] ?? format;
}

let isH264Decoded = null; // a promise, once it was asked for

/** Resolves to true if this browser decodes H.264. */
export function canDecodeH264() {
  isH264Decoded ??= askForH264();
  return isH264Decoded;
}

async function askForH264() {
  if (!("VideoDecoder" in window)) return false;
  const { supported } = await VideoDecoder.isConfigSupported({
    codec: H264,
    optimizeForLatency: true,
  });
  return supported;
}
