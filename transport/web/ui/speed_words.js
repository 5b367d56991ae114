/** The sentence behind the mark of the speed. */

import { formatName } from "./format.js";

const MEASURING = { level: "unknown", text: "Measuring the speed." };

/**
 * verdict: of `Speed`. fps: the media rate. isAuto: true if the line chooses the encoding.
 * lowered: the step of the ladder if it is not the first, else null. isLowest: true at its last step.
 *
 * Returns { level, text }. `level` is "unknown", "good" (green), "fair" (amber) or "poor" (red).
 */
export function describeSpeed(verdict, { fps, isAuto, lowered, isLowest }) {
  if (verdict === null) return lowered === null ? MEASURING : describeStep(lowered);
  const { level } = verdict;
  const rate = `${Math.round(verdict.share * fps)} of ${fps} frames a second`;
  switch (verdict.cause) {
    case "server":
      return { level, text: `The server makes ${rate}.` };
    case "device":
      return { level, text: `This device is slow: it decodes ${rate}.` };
    case "line":
      return { level, text: describeLine(rate, { isAuto, isLowest }) };
    case "unclear":
      return { level, text: `The world is slow: ${rate} arrive.` };
    default:
      if (lowered !== null) return describeStep(lowered);
      return { level, text: `The world runs at full speed: ${fps} frames a second.` };
  }
}

function describeLine(rate, { isAuto, isLowest }) {
  if (isLowest) return `Your line is too slow for this world: ${rate} arrive.`;
  const text = `Your line is slow: ${rate} arrive.`;
  return isAuto ? text : `${text} The video format “Automatic” helps.`;
}

function describeStep({ format, quality, width }) {
  const name = formatName(format);
  const price = width < 1 ? " with fewer pixels" : quality < 90 ? " at a lower quality" : "";
  return { level: "fair", text: `Your line is slow: switched to ${name}${price}.` };
}
