/** The page: switches screens, and connects walks, player, input and ui. */

import { Gamepad } from "./input/gamepad.js";
import { gameKeyOf, isTyping, Keys, letterOf } from "./input/keys.js";
import { MouseLook } from "./input/mouse.js";
import { Player } from "./player/player.js";
import { Recorder } from "./player/recorder.js";
import { Portable } from "./portable.js";
import { fetchWorld, takeSecrets } from "./server.js";
import { announce } from "./ui/announcer.js";
import { Continue } from "./ui/continue.js";
import { download } from "./ui/download.js";
import { takeDrops } from "./ui/drop.js";
import { readBytes } from "./ui/file.js";
import { FirstHint } from "./ui/first_hint.js";
import { focusWorld, markTabbing } from "./ui/focus.js";
import { Hud } from "./ui/hud.js";
import * as notices from "./ui/notices.js";
import { Card, Countdown, Toast } from "./ui/overlay.js";
import { Settings } from "./ui/settings.js";
import { SpeedMark } from "./ui/speed_mark.js";
import { Start } from "./ui/start.js";
import { Walk } from "./walk.js";
import { forget, readKept } from "./world/kept.js";

const element = (id) => document.getElementById(id);
const toast = new Toast();
const firstHint = new FirstHint();
const keys = new Keys([...document.querySelectorAll("[data-key]")], hold);
const mouse = new MouseLook(element("world"), keys);
const inputs = [keys, new Gamepad(keys), mouse]; // keys first: the others need it enabled
const start = new Start({ onEnter: enter, onOpen: openFile, onChoose: setBackdrop });
const offer = new Continue({ onContinue: enterKept, onForget: forgetKept });
const portable = new Portable(toast);
const ui = {
  card: new Card(),
  toast,
  countdown: new Countdown(),
  hud: new Hud(element("stage")),
  settings: new Settings((fields) => walk.changeOutput(fields)),
  mark: new SpeedMark(),
};
const SHORTCUTS = {
  r: () => recorder.toggle(),
  p: () => takePicture(),
  b: () => portable.stepBack(),
};
let player = null; // null if this browser cannot run one
let recorder = null; // as the player
let world = null; // the answer of /v1/world
let walk = null; // null on the start screen

/** The state of the page, for tests and the console. */
window.lingbot = Object.freeze({
  get state() {
    return walk?.session.state ?? "start";
  },
  get stats() {
    return walk && Object.freeze({ ...walk.session.stats, held: [...keys.held] });
  },
  /** Resolves to the displayed frame: { chunkIndex, frameIndex, width, height, data }. */
  lastFrame: () => player.readFrame(),
  /** Keeps the world now, as the page does every 10 s. Resolves when it is kept. */
  keep: () => portable.keep(),
});

async function setUp() {
  const fork = takeSecrets();
  try {
    if (!("popover" in HTMLElement.prototype)) throw new Error("every panel would be open");
    const canvases = { world: element("world"), glow: element("glow") };
    player = new Player({ ...canvases, onUnsupported: () => start.notify(notices.TOO_OLD) });
  } catch {
    start.notify(notices.TOO_OLD);
    return;
  }
  recorder = new Recorder(player, {
    onChange: showRecording,
    onFile: saveRecording,
    onFail: () => toast.show(notices.NOTHING_RECORDED),
  });
  world = await fetchWorld((text) => start.notify(text));
  if (world === null) return;
  start.show(world);
  offerKept();
  if (fork !== null) enter({ kind: "fork", name: "This fork", fields: { fork } });
}

function setBackdrop(url) {
  document.body.style.setProperty("--backdrop", `url("${new URL(url, document.baseURI)}")`);
}

// ---- worlds to enter

/** Enters a world at the user's request. chosen: see Walk. */
function enter(chosen) {
  if (walk !== null) endWalk();
  start.notify("");
  const choice = { output: start.output, prompt: "", ...chosen };
  element("live-prompt").value = choice.prompt;
  const onKeptRefused = () => forget().catch(() => null);
  const listeners = { onScreen: showScreen, onInputs: enableInputs, onRefused, onKeptRefused };
  walk = new Walk(choice, { player, world, keys, portable, ui }, listeners);
}

function openFile(name, snapshot) {
  enter({ kind: "file", name, fields: { snapshot } });
}

/** Takes a dropped file. A picture is chosen on the start screen, where its prompt can be written. */
async function takeFile(file) {
  try {
    const kind = await start.take(file);
    if (kind === "picture" && walk !== null) leave();
  } catch ({ message }) {
    if (walk === null) start.notify(message);
    else toast.show(message); // the walk goes on
  }
}

async function enterKept({ snapshot, prompt, output }) {
  const name = "The world that was kept";
  const bytes = await readBytes(snapshot, name).catch(({ message }) => start.notify(message));
  if (bytes) enter({ kind: "kept", name, fields: { snapshot: bytes }, prompt, output });
}

/** Back to the start screen, with the reason in one line. */
function onRefused(reason) {
  const { choice } = walk;
  leave();
  start.notify(notices.describeRefusal(choice, reason));
  if (choice.kind === "kept") forgetKept();
}

/** A browser that keeps nothing, as in some private windows, has nothing to offer. */
async function offerKept() {
  offer.show(await readKept().catch(() => null));
}

async function forgetKept() {
  await forget().catch(() => null);
  await offerKept();
  start.focus();
}

// ---- screens

/** A recording ends with its world, and open panels close. */
function endWalk() {
  walk.leave();
  walk = null;
  enableInputs(false);
  for (const panel of document.querySelectorAll(":popover-open")) panel.hidePopover();
}

function leave() {
  endWalk();
  showScreen("start");
  offerKept();
  start.focus();
}

function enableInputs(enabled) {
  for (const input of inputs) input.enabled = enabled;
  element("record").disabled = !enabled;
  if (!enabled) recorder?.stop();
}

function hold(held) {
  if (held.length > 0) firstHint.learn();
  walk?.session.hold(held);
}

function showScreen(name) {
  document.body.dataset.screen = name;
  element("start").hidden = name !== "start";
  element("stage").hidden = name === "start";
  if (name === "waiting") focusWorld(); // the focus would fall to the body with the start screen
  if (name === "ended") element("again").focus();
  if (name === "playing") {
    announce(notices.OPEN);
    firstHint.show();
  } else {
    firstHint.hide();
  }
}

async function takePicture() {
  const picture = await player.takePicture();
  if (picture === null) toast.show(notices.NO_PICTURE);
  else download(picture, "png");
}

function saveRecording(blob, extension) {
  if (extension === "mkv") toast.show(notices.RECORDED_AS_JPEG);
  download(blob, extension);
}

function showRecording(seconds) {
  element("record").setAttribute("aria-pressed", String(seconds !== null));
  element("record-text").textContent = seconds === null ? "Record" : notices.formatClock(seconds);
}

// ---- keys and buttons of the stage

/** Esc leaves the innermost state: a popover, the pointer lock, a text field, the session. */
function onEscape(event) {
  if (document.querySelector(":popover-open") !== null) return; // the browser closes it
  if (mouse.isLocked) mouse.release();
  else if (isTyping(event)) focusWorld();
  else leave();
}

/** Any key or touch ends a pause. */
function resume() {
  if (walk?.session.state === "paused") walk.session.resume();
}

element("leave").addEventListener("click", leave);
element("back").addEventListener("click", leave);
element("again").addEventListener("click", () => {
  if (walk.isLost) walk.retry();
  else enter(walk.choice);
});
element("record").addEventListener("click", () => recorder.toggle());
element("picture").addEventListener("click", takePicture);
element("change").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = element("live-prompt").value.trim();
  if (prompt !== "") walk.changePrompt(prompt);
  focusWorld(); // gives the keys back to the walk
});
window.addEventListener("pointerdown", resume);
window.addEventListener("hashchange", () => location.reload()); // a link to a fork was pasted
window.addEventListener("keydown", (event) => {
  if (walk === null) return;
  if (event.key === "Escape") onEscape(event);
  else resume();
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
  if (walk?.session.state !== "playing" || !isPlain || isTyping(event)) return;
  const shortcut = SHORTCUTS[letterOf(event)];
  if (shortcut === undefined || gameKeyOf(event) !== undefined) return;
  event.preventDefault(); // R would choose "raw" in a list that has the focus
  shortcut();
});
takeDrops(takeFile);
markTabbing();
setUp();
