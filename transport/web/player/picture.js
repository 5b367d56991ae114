/** Decodes frames that are JPEG or WebP files. */

/**
 * One batch to one ImageBitmap a frame, in order.
 * Rejects if any of them cannot be decoded, and closes the others.
 */
export async function decodePictures({ payload, payload_lengths, content_type }) {
  let start = 0;
  const blobs = payload_lengths.map((length) => {
    start += length;
    return new Blob([payload.subarray(start - length, start)], { type: content_type });
  });
  const settled = await Promise.allSettled(blobs.map((blob) => createImageBitmap(blob)));
  const failure = settled.find(({ status }) => status === "rejected");
  if (failure === undefined) return settled.map(({ value }) => value);
  for (const { value } of settled) value?.close();
  throw failure.reason;
}
