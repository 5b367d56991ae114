/** The ways that frames can travel, as far as this browser can show them. */

const FORMATS = [
  ["jpeg", "JPEG: small"],
  ["webp", "WebP: smaller"],
  ["h264", "H.264: smallest"],
  ["delta-zstd", "zstd: lossless"],
  ["raw", "raw: lossless, large"],
];
const H264 = "avc1.42c01f"; // baseline; the stream says its own level

/** Whether a quality means anything to it. */
export function isLossy(format) {
  return format !== "raw" && format !== "delta-zstd";
}

/** Fills a <select>; where there is no H.264, choosing it means JPEG, and it says so. */
export async function offerFormats(select) {
  select.replaceChildren(...FORMATS.map(([format, label]) => new Option(label, format)));
  if (await playsH264()) return;
  const option = select.querySelector("[value=h264]");
  Object.assign(option, { value: "jpeg", text: "H.264: not in this browser, JPEG" });
}

async function playsH264() {
  if (!("VideoDecoder" in window)) return false;
  const { supported } = await VideoDecoder.isConfigSupported({
    codec: H264,
    optimizeForLatency: true,
  });
  return supported;
}
