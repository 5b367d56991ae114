/** The server's addresses, and what the address of the page hands over. */

const RETRY_MS = 2000;
const NEEDS_TOKEN = "The token is not valid any more. Open the page with ?token= and a new one.";

export function socketUrl() {
  const url = new URL("v1/realtime_video/generate", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

/** A link to this page that opens a forked world. A server never sees a fragment. */
export function forkUrl(token) {
  return new URL(`#fork=${encodeURIComponent(token)}`, location.href).href;
}

/**
 * Takes secrets out of the address. The browser sends `?token=` on in a cookie, which scripts cannot
 * read. Returns the token of a forked world, or null.
 */
export function takeSecrets() {
  const address = new URL(location.href);
  const fork = new URLSearchParams(address.hash.slice(1)).get("fork");
  address.searchParams.delete("token");
  if (fork !== null) address.hash = "";
  if (address.href !== location.href) history.replaceState(null, "", address);
  return fork;
}

/**
 * Resolves to the answer of /v1/world, once there is one, or to null without a valid token.
 * notify(text): called with what the page waits for, and with "" when the world is there.
 */
export async function fetchWorld(notify) {
  for (;;) {
    try {
      const response = await fetch(new URL("v1/world", document.baseURI));
      if (response.status === 401) {
        notify(NEEDS_TOKEN);
        return null;
      }
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const world = await response.json();
      notify("");
      return world;
    } catch {
      notify("The server is not answering yet. Trying again.");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
