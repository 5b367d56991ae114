/** Lines about a session that goes on. */

export const DECODE_FAILED = {
  none: "A batch of frames could not be decoded.",
  key_frame: "A frame could not be decoded; the picture comes back in a moment.",
  jpeg: "This browser cannot decode that video; JPEG follows.",
};
export const RECONNECT = "This server goes away, and another one takes over.";
export const CLOSED = "No world is open.";
