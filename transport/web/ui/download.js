/** Files that the browser downloads. */

/** Downloads a blob under a name with the time of day. */
export function download(blob, extension) {
  const url = URL.createObjectURL(blob);
  const date = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  const name = `lingbot-${date}.${extension}`;
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // by then the download has begun
}
