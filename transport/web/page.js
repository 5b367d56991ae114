/** The page: which screen is up, and what joins it to the walk. */

import { Card, Toast } from "./ui/overlay.js";
import { explain } from "./session/close_reason.js";
import { Gamepad } from "./input/gamepad.js";
import { Hud } from "./ui/hud.js";
import { Keys, isTyping } from "./input/keys.js";
import { MouseLook } from "./input/mouse.js";
import { cropCover } from "./ui/image.js";
import { Recorder } from "./player/recorder.js";
import { Reopening } from "./session/reconnect.js";
import { Screen } from "./player/player.js";
import { Settings } from "./ui/settings.js";
import { Start } from "./ui/start.js";
import { Walk } from "./session/session.js";

const RETRY_MS = 2000;
const TOO_OLD =
  "This browser cannot draw from a worker. Chrome, Edge, Firefox or Safari of 2024 or later can.";

const element = (id) => document.getElementById(id);
const card = new Card();
const toast = new Toast();
const hud = new Hud(element("hud"));
const keys = new Keys([...document.querySelectorAll("[data-key]")], (held) => walk?.hold(held));
const mouse = new MouseLook(element("world"), keys);
const inputs = [keys, new Gamepad(keys), mouse]; // keys first: they take what the others hold
const recorder = new Recorder(element("world"), showRecording);
const settings = new Settings(change);
const start = new Start({ onEnter: visit, onChoose: backdrop });
const reopening = new Reopening({
  onTick: (seconds, nth, most) =>
    card.announce(`A new walk from the same picture in ${seconds} s (try ${nth} of ${most}).`),
  onOpen: () => enter(),
});
let screen = null; // null where this browser has none
let world = null; // the answer of /v1/world
let choice = null; // what the start screen gave, and what was changed since
let walk = null;
let playingSince = null; // ms

/** For tests and the curious: read only. */
window.lingbot = Object.freeze({
  get state() {
    return walk?.state ?? "start";
  },
  get stats() {
    return walk === null ? null : Object.freeze({ ...walk.stats, held: [...keys.held] });
  },
  /** Resolves to the frame on the screen: { chunkIndex, frameIndex, width, height, data }. */
  lastFrame: () => screen.read(),
});

function setUp() {
  try {
    const canvases = { world: element("world"), glow: element("glow") };
    screen = new Screen({ ...canvases, onBroken: () => start.notify(TOO_OLD) });
  } catch {
    start.notify(TOO_OLD);
    return;
  }
  element("record").hidden = !Recorder.isSupported;
  load();
}

async function load() {
  try {
    const response = await fetch(new URL("v1/world", document.baseURI));
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    world = await response.json();
  } catch {
    start.notify("The server is not answering yet. Trying again.");
    setTimeout(load, RETRY_MS);
    return;
  }
  start.notify("");
  start.show(world);
}

function backdrop(url) {
  document.body.style.setProperty("--backdrop", `url("${new URL(url, document.baseURI)}")`);
}

/** A person enters a world. */
function visit(chosen) {
  choice = chosen;
  reopening.stop();
  enter();
}

function enter() {
  const url = new URL("v1/realtime_video/generate", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const asked = { fps: world.fps, extensions: true, realtime_cut_over: true };
  const listeners = { onState, onShow, onEnd, onCodec: (codec) => settings.follow(codec) };
  playingSince = null;
  walk = new Walk(
    url,
    { type: "init", ...asked, ...choice.init },
    { screen, world, onNotice: (text) => toast.show(text), ...listeners },
  );
  show("waiting");
  card.show({ title: "Opening the world", text: "A moment." });
  hud.write(walk.stats);
  settings.show(choice.init);
  element("live-prompt").value = choice.init.prompt ?? "";
  showOpening(walk);
}

/** Where the walk will begin, until its first frame comes. */
async function showOpening(mine) {
  const size = choice.init.size.split("x").map(Number);
  const cover = await cropCover(choice.picture, size).catch(() => null); // a walk does without
  if (mine === walk && cover !== null) screen.cover(cover);
  else cover?.close();
}

function onState(state, detail) {
  if (state === "queued") {
    card.show({
      title: "Waiting for a world",
      text: `All are taken. You are number ${detail.position} in line.`,
    });
  } else if (state === "warming") {
    card.show({ title: "Warming up", text: "The model is getting ready. This happens once." });
  } else if (state === "playing") {
    playingSince = performance.now();
    card.hide();
    show("playing");
    enable(true);
  }
}

function onShow() {
  hud.update(performance.now(), walk.stats);
}

function onEnd(end) {
  enable(false);
  toast.hide(); // what it said is on the card
  const { title, hint, said, isPassing } = explain(end);
  show("ended");
  card.show({ title, text: hint, said, over: true });
  element("again").focus();
  if (isPassing) reopening.start(playingSince === null ? 0 : performance.now() - playingSince);
}

function leave() {
  enable(false);
  reopening.stop();
  walk.leave();
  walk = null;
  toast.hide();
  show("start");
  start.focus();
}

function enable(enabled) {
  for (const input of inputs) input.enabled = enabled;
  element("record").disabled = !enabled;
  if (!enabled) recorder.stop();
}

function show(name) {
  document.body.dataset.screen = name;
  element("start").hidden = name !== "start";
  element("stage").hidden = name === "start";
}

function showRecording(seconds) {
  const clock = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  element("record").setAttribute("aria-pressed", String(seconds !== null));
  element("record-text").textContent = seconds === null ? "Record" : clock;
}

/** How frames travel from now on, and in the next walk too. */
function change(fields) {
  Object.assign(choice.init, fields);
  walk.changeOutput(fields);
}

/** A first Esc leaves what was entered last. */
function escape(event) {
  if (document.querySelector(":popover-open") !== null) return; // the browser closes it
  if (mouse.isCaught) mouse.release();
  else if (isTyping(event)) event.target.blur();
  else leave();
}

element("leave").addEventListener("click", leave);
element("back").addEventListener("click", leave);
element("again").addEventListener("click", () => visit(choice));
element("record").addEventListener("click", () => recorder.toggle());
element("change").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = element("live-prompt").value.trim();
  if (prompt !== "" && walk.state === "playing") walk.changePrompt(prompt);
  element("live-prompt").blur(); // the keys walk again
});
window.addEventListener("keydown", (event) => {
  if (document.body.dataset.screen === "start") return;
  if (event.key === "Escape") escape(event);
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
  if (event.code === "KeyR" && isPlain && !isTyping(event) && walk.state === "playing") {
    recorder.toggle();
  }
});
setUp();
