/** The reason why a session ended, in plain words: what happened, and what the visitor can do. */

const TEXTS = {
  done: ["The walk is over", "It had a fixed length. Walk again, or choose another picture."],
  away: ["The server went away", "It may be restarting. Walk again in a moment."],
  broken: ["The connection was lost", "Look whether you are online, then walk again."],
  unreachable: [
    "The server cannot be reached",
    "It may be restarting, or you are offline. Walk again in a moment.",
  ],
  unknown: ["The walk ended", "Walk again, or choose another picture."],
  // The names below are error codes of the wire.
  refused: ["The server refused this world", "Choose another picture, or other words."],
  too_large: [
    "That was too large",
    "The server takes pictures of up to 16 MiB. Choose a smaller one.",
  ],
  timeout: ["The server gave up waiting", "This page was silent for too long. Walk again?"],
  internal: ["Something broke in the server", "It is not your doing. Walking again may work."],
  world_lost: [
    "The world is restarting",
    "The machine that made it has gone. Wait for a new one, or walk again in a moment.",
  ],
  session_gone: ["That world is gone", "The server does not keep it any more. Begin a new walk."],
  taken_over: [
    "This walk goes on elsewhere",
    "Another page has taken it over. Walk there, or begin a new walk here.",
  ],
  session_ended: [
    "The walk has ended",
    "A walk here has a time limit. Walk again, or choose another picture.",
  ],
  unauthorized: [
    "This page needs a token",
    "Open it with ?token= and the token that you were given.",
  ],
  forbidden: ["This page may not open a world", "Open the page of the server itself."],
  busy: ["Every world is taken", "Somebody has to leave first. Wait, or try again now."],
};
const TRANSIENT = ["away", "broken", "unreachable", "world_lost", "busy"]; // a retry may succeed
const CLOSE_CODE = /\(?\b(?:code:? )?10(?:0\d|1[0-5])\b(?! (?:s|ms|chunks)\b)\)?:?/gi;
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
    detail: addsDetail ? withoutCodes(text) : "",
    isTransient: TRANSIENT.includes(cause),
    retryAfterS: error?.retry_after_s ?? null,
  };
}

/** The server's text without close codes, which mean nothing to a visitor. */
function withoutCodes(text) {
  const rest = text.replaceAll(CLOSE_CODE, " ").replaceAll(/\s+/g, " ").trim();
  return /[a-z]/i.test(rest) ? rest : "";
}

/** An error code that ends a session is more precise than the close code. */
function causeOf(code, error) {
  if (error !== null && Object.hasOwn(TEXTS, error.code)) return error.code;
  return code === null ? "refused" : (CAUSE_OF_CLOSE_CODE[code] ?? "unknown");
}
