/** The worker that decodes and paints, so that neither blocks the page's thread. */

import { Canvas } from "./canvas.js";
import { FramePlayer } from "./frame_player.js";
import { Recording } from "./recording.js";

let canvas = null;
let framePlayer = null; // of the open session
let paused = false;
let opening = Promise.resolve(null); // to the recording, or to null

const COMMANDS = {
  attach(canvases) {
    canvas = new Canvas(canvases);
  },
  enlarge({ width, height }) {
    canvas.enlarge({ width, height });
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
    postMessage({ report: "answer", id, answer: canvas.readFrame() });
  },
  async takePicture({ id }) {
    postMessage({ report: "answer", id, answer: await canvas.takePicture().catch(() => null) });
  },
  async startRecording({ id, fps, canEncode }) {
    const tell = (report, details) => postMessage({ report, id, ...details });
    const onSecond = (seconds) => tell("recording", { seconds });
    const onEnd = () => tell("recording_ended");
    opening = Recording.open(canvas.size, { fps, canEncode, onSecond, onEnd }).catch(() => null);
    canvas.recording = await opening;
    if (canvas.recording === null) onEnd();
  },
  async stopRecording({ id }) {
    const recording = await opening;
    canvas.recording = null;
    const blob = await recording?.finish().catch(() => null);
    postMessage({ report: "answer", id, answer: { blob, extension: recording?.extension } });
  },
};

function tick() {
  requestAnimationFrame(tick); // first: an error in one frame must not be the end of all
  framePlayer?.tick(performance.now());
}

self.onmessage = ({ data }) => COMMANDS[data.command](data);
requestAnimationFrame(tick);
