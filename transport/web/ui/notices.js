/** Sentences about the line, a pause, a slow world and the end of a session. */

const SUFFIXES = { one: "st", two: "nd", few: "rd", other: "th" };
const ordinals = new Intl.PluralRules("en", { type: "ordinal" });

/** message: `queued`. Returns { title, text }. */
export function describeQueue({ position, all_taken: allTaken, estimate_s: estimateS }) {
  const place = `You are ${position}${SUFFIXES[ordinals.select(position)]} in line`;
  const wait = estimateS === undefined ? "" : `, about ${formatWait(estimateS)}`;
  const title = allTaken ? "Every world is taken" : "Others open a world, too";
  return { title, text: `${place}${wait}.` };
}

export const STARTING = {
  title: "A world is starting",
  text: "A machine is getting ready for you. This can take a few minutes.",
};

export const PAUSED = { title: "Paused", text: "Press any key, or touch the picture, to go on." };

/** message: `ending`. Returns the sentence for each number of seconds left. */
export function describeEnding({ reason }) {
  const rest = reason === "idle" ? ", unless you press a key" : "";
  return (seconds) => `This walk ends in ${formatWait(seconds)}${rest}.`;
}

/** message: `paced`. */
export function describePace({ speed_percent: percent }) {
  if (percent >= 100) return "The world is back at its full speed.";
  return `The world runs at ${percent} % of its speed: its machine is busy.`;
}

export function formatWait(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}
