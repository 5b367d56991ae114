/** The bytes of files, which may be gone or locked by the time they are read. */

/** blob: a File or a Blob. Rejects with a text for the user, who knows it by `name`. */
export async function readBytes(blob, name) {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch {
    throw new Error(`${name} cannot be read.`);
  }
}
