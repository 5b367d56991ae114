/** Frames that travel as pictures: JPEG and WebP. */

/**
 * One batch to one ImageBitmap a frame, in order.
 * Rejects where one of them cannot be decoded; then none is kept.
 */
export async function decodeStills({ payload, payload_lengths, content_type }) {
  let start = 0;
  const blobs = payload_lengths.map((length) => {
    start += length;
    return new Blob([payload.subarray(start - length, start)], { type: content_type });
  });
  const settled = await Promise.allSettled(blobs.map((blob) => createImageBitmap(blob)));
  const failure = settled.find(({ status }) => status === "rejected");
  if (failure === undefined) return settled.map(({ value }) => value);
  settled.forEach(({ value }) => value?.close());
  throw failure.reason;
}
