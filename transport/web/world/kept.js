/** The one world that this browser keeps, in IndexedDB, so that it outlives the page. */

const DATABASE = "lingbot";
const STORE = "worlds";
const KEY = new URL(".", document.baseURI).pathname; // one world for each server of an origin

/** Resolves to what `keep` was given, or undefined. Rejects where the browser keeps nothing. */
export async function readKept() {
  const kept = await run("readonly", (store) => store.get(KEY));
  return kept && { ...kept, snapshot: toBlob(kept.snapshot), preview: toBlob(kept.preview) };
}

/** kept: { snapshot: Blob, preview: Blob or null, prompt, output, seconds, savedAtMs }. */
export async function keep({ snapshot, preview, ...rest }) {
  const kept = { ...rest, snapshot: await toBytes(snapshot), preview: await toBytes(preview) };
  return run("readwrite", (store) => store.put(kept, KEY));
}

export function forget() {
  return run("readwrite", (store) => store.delete(KEY));
}

async function run(mode, act) {
  const database = await open();
  try {
    const transaction = database.transaction(STORE, mode);
    const request = act(transaction.objectStore(STORE));
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    return request.result;
  } finally {
    database.close();
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** A private window of WebKit stores bytes, but no Blob. */
async function toBytes(blob) {
  return blob && { type: blob.type, data: await blob.arrayBuffer() };
}

function toBlob(stored) {
  const isBytes = stored && !(stored instanceof Blob); // earlier pages stored Blobs
  return isBytes ? new Blob([stored.data], { type: stored.type }) : stored;
}
