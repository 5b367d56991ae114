/** The reason why a session ended, in plain words. */

const TEXTS = {
  done: ["The walk is over", "This world was opened for a limited number of chunks."],
  away: ["The server went away", "It may be restarting."],
  broken: ["The connection was lost", "The server stopped answering, or the network did."],
  unreachable: ["The server cannot be reached", "Is it still running?"],
  unknown: ["The walk ended", ""],
  // The names below are error codes of the wire.
  refused: ["The server refused this world", ""],
  too_large: ["That was too large", "The server takes pictures of up to 16 MiB."],
  timeout: ["The server gave up waiting", "This page was silent for too long. Walk again?"],
  internal: ["Something broke in the server", "It is not your doing. Walking again may work."],
  world_lost: [
    "The world is restarting",
    "The machine that made it has gone. A new one is on its way.",
  ],
  session_gone: ["That world is gone", "The server does not keep it any more."],
  taken_over: ["This walk goes on elsewhere", "Another page has taken it over."],
  session_ended: ["The walk has ended", "A walk here has a time limit."],
  unauthorized: [
    "This page needs a token",
    "Open it with ?token= and the token that you were given.",
  ],
  forbidden: ["This page may not open a world", "The server lists the pages that may."],
  busy: ["Every world is taken", "Somebody has to leave first."],
};
const TRANSIENT = ["away", "broken", "unreachable", "world_lost", "busy"]; // a retry may succeed
const CAUSE_OF_CLOSE_CODE = {
  1000: "done",
  1001: "away",
  1006: "broken",
  1008: "refused",
  1009: "too_large",
  1011: "internal",
  1012: "world_lost",
  1013: "busy",
};

/**
 * code, reason: of the close. `code` is null if the server refused `init`: it may close later, or
 * never while it waits for another init.
 * error: the last error message, or null.
 * opened: true if the socket ever opened.
 *
 * Returns { cause, title, hint, detail, isTransient, retryAfterS }. `cause` is a key of TEXTS.
 * `detail` is the server's own text, or "" if it adds nothing. `retryAfterS` is when to come back, or
 * null if the server does not know.
 */
export function explain({ code, reason, error, opened }) {
  const cause = opened ? causeOf(code, error) : "unreachable";
  const [title, hint] = TEXTS[cause];
  const text = error?.content || reason;
  const isDone = code === 1000 && error === null;
  const addsDetail = !isDone && text.toLowerCase() !== title.toLowerCase();
  return {
    cause,
    title,
    hint,
    detail: addsDetail ? text : "",
    isTransient: TRANSIENT.includes(cause),
    retryAfterS: error?.retry_after_s ?? null,
  };
}

/** An error code that ends a session is more precise than the close code. */
function causeOf(code, error) {
  if (error !== null && Object.hasOwn(TEXTS, error.code)) return error.code;
  return code === null ? "refused" : (CAUSE_OF_CLOSE_CODE[code] ?? "unknown");
}
