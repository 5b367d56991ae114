/** Why a walk ended, in plain words. */

const WORDS = {
  1000: ["The walk is over", "This world was opened for a limited number of chunks."],
  1001: ["The server went away", "It may be restarting. Try again in a moment."],
  1006: ["The connection was lost", "The server stopped answering, or the network did."],
  1008: ["The server refused this world", ""],
  1009: ["That was too large", "The server takes pictures of up to 8 MiB."],
  1011: ["Something broke in the server", "It is not your doing. Walking again may work."],
  1012: ["The world is restarting", "The machine that made it has gone. A new one is on its way."],
  1013: ["Every world is taken", "Somebody has to leave first. Try again in a moment."],
};
const UNREACHABLE = ["The server cannot be reached", "Is it still running? Try again in a moment."];
const UNKNOWN = ["The walk ended", ""];

/**
 * code: the close code; null where the server refused `init` and left the socket open.
 * said: the server's own words, from its last error or the close reason; may be empty.
 */
export function explain({ code, said, opened }) {
  const refused = code === null ? WORDS[1008] : (WORDS[code] ?? UNKNOWN);
  const [title, hint] = opened ? refused : UNREACHABLE;
  const isNews = code !== 1000 && said.toLowerCase() !== title.toLowerCase();
  return { title, hint, said: isNews ? said : "" };
}
