/** The worker that decodes and paints, so that neither blocks the page's thread. */

import { Canvas } from "./canvas.js";
import { FramePlayer } from "./frame_player.js";

let canvas = null;
let framePlayer = null; // of the open session
let paused = false;

const COMMANDS = {
  attach(canvases) {
    canvas = new Canvas(canvases);
  },
  open({ sessionId, fps, chunkFrames }) {
    framePlayer?.close();
    const onReport = ({ image, ...report }) =>
      postMessage({ sessionId, image, ...report }, image ? [image] : []);
    framePlayer = new FramePlayer({ fps, chunkFrames, canvas, onReport });
    framePlayer.pause(paused);
  },
  showImage({ image }) {
    if (framePlayer !== null && !framePlayer.hasShownFrame) canvas.paintImage(image);
    image.close();
  },
  setPace({ fps, chunkFrames }) {
    framePlayer.setPace({ fps, chunkFrames });
  },
  addBatch({ message }) {
    framePlayer.addBatch(message);
  },
  flush() {
    framePlayer.flush();
  },
  pause(command) {
    paused = command.paused;
    framePlayer?.pause(paused);
  },
  finish({ drain }) {
    framePlayer.finish(drain);
  },
  close() {
    framePlayer?.close();
    framePlayer = null;
  },
  readFrame({ id }) {
    postMessage({ report: "frame", id, frame: canvas.readFrame() });
  },
};

function tick() {
  framePlayer?.tick(performance.now());
  requestAnimationFrame(tick);
}

self.onmessage = ({ data }) => COMMANDS[data.command](data);
requestAnimationFrame(tick);
