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

export const OPENING = { title: "Opening the world", text: "A moment." };

export const OPEN = "You are in the world. Hold W, A, S or D to walk.";

export const STARTING = {
  title: "A world is starting",
  text: "A machine is getting ready for you. This can take a few minutes.",
};

export const TOO_OLD =
  "This browser cannot show a world. Chrome, Edge, Firefox or Safari of 2024 or later can.";

export const NOTHING_RECORDED = "This browser could not record anything. P saves a picture.";
export const RECORDED_AS_JPEG =
  "This browser has no video encoder. The recording is an MKV file of JPEG frames, which VLC plays.";
export const NO_PICTURE = "This browser could not make a picture.";

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

/** A new walk, or the same one, begins by itself. */
export function describeRetry(seconds, attempt, maxAttempts, { goesOn }) {
  const what = goesOn ? "Your walk goes on" : "A new walk from the same picture";
  if (goesOn && seconds === 0) return `${what} in a moment.`;
  return `${what} in ${seconds} s (try ${attempt} of ${maxAttempts}).`;
}

export const GAVE_UP = "This page has stopped trying. Walk again once the server is back.";
export const MOVED = "Your world has moved to another machine, and goes on.";
export const GOES_ON_FROM_KEPT =
  "The server has lost this world. It goes on where it was last kept, a few seconds earlier.";
export const KEPT_REFUSED = "The world that this browser kept cannot be opened, and is forgotten.";

/** choice: see Walk. reason: see `explain`. */
export function describeRefusal(choice, { detail, hint }) {
  const outcome = choice.kind === "kept" ? " and is forgotten" : "";
  return `${choice.name} cannot be opened${outcome}: ${detail || hint}`;
}

/** "m:ss" */
export function formatClock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function formatWait(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}
