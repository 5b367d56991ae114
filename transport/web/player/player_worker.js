/** The worker behind the picture: what costs milliseconds is done here, off the page's thread. */

import { Projection } from "./frame_player.js";
import { Surface } from "./canvas.js";

let surface = null;
let projection = null; // of the walk that is open
let paused = false;

const COMMANDS = {
  attach(canvases) {
    surface = new Surface(canvases);
  },
  open({ walk, fps, chunkFrames }) {
    projection?.close();
    const tell = (report) => postMessage({ walk, ...report });
    projection = new Projection({ fps, chunkFrames, surface, tell });
    projection.pause(paused);
  },
  cover({ picture }) {
    if (projection !== null && !projection.hasShown) surface.cover(picture);
    picture.close();
  },
  pace(rhythm) {
    projection.pace(rhythm);
  },
  batch({ message }) {
    projection.add(message);
  },
  pause(command) {
    paused = command.paused;
    projection?.pause(paused);
  },
  finish({ drain }) {
    projection.finish(drain);
  },
  close() {
    projection?.close();
    projection = null;
  },
  read({ id }) {
    postMessage({ report: "frame", id, frame: surface.read() });
  },
};

function tick() {
  projection?.tick(performance.now());
  requestAnimationFrame(tick);
}

onmessage = ({ data }) => COMMANDS[data.command](data);
requestAnimationFrame(tick);
