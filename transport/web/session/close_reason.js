/** Why a walk ended, in plain words. */

const WORDS = {
  done: ["The walk is over", "This world was opened for a limited number of chunks."],
  away: ["The server went away", "It may be restarting."],
  broken: ["The connection was lost", "The server stopped answering, or the network did."],
  unreachable: ["The server cannot be reached", "Is it still running?"],
  unknown: ["The walk ended", ""],
  // From here on the names are codes of the wire's errors.
  refused: ["The server refused this world", ""],
  too_large: ["That was too large", "The server takes pictures of up to 8 MiB."],
  timeout: ["The server gave up waiting", "This page was silent for too long. Walk again?"],
  internal: ["Something broke in the server", "It is not your doing. Walking again may work."],
  world_lost: [
    "The world is restarting",
    "The machine that made it has gone. A new one is on its way.",
  ],
  busy: ["Every world is taken", "Somebody has to leave first."],
};
const PASSING = ["away", "broken", "unreachable", "world_lost", "busy"]; // a new try may do better
const CAUSES = {
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
 * code, reason: of the close; code is null where the server refused `init`, whose close may be
 * late or, where another init is welcome, never come.
 * error: the last error message, or null. opened: whether there ever was a connection.
 */
export function explain({ code, reason, error, opened }) {
  const why = opened ? cause(code, error) : "unreachable";
  const [title, hint] = WORDS[why];
  const said = error?.content || reason;
  const isNews = code !== 1000 && said.toLowerCase() !== title.toLowerCase();
  return { title, hint, said: isNews ? said : "", isPassing: PASSING.includes(why) };
}

/** The error knows best, where its code is one that ends a walk. */
function cause(code, error) {
  if (error !== null && Object.hasOwn(WORDS, error.code)) return error.code;
  return code === null ? "refused" : (CAUSES[code] ?? "unknown");
}
