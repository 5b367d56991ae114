/** Lines about a session that goes on. */

export const DECODE_FAILED = {
  none: "A batch of frames could not be decoded.",
  key_frame: "A frame could not be decoded; the picture comes back in a moment.",
  jpeg: "This browser cannot decode that video; JPEG follows.",
};
// By the type of the server's message.
export const HANDED_OVER = {
  moved: "Your world has moved to another machine, and goes on.",
  reconnect: "This server goes away, and another one takes over.",
};
export const CLOSED = "No world is open.";
