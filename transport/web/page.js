/** The page: switches screens and connects session, player, input and ui. */

import { Gamepad } from "./input/gamepad.js";
import { isTyping, Keys } from "./input/keys.js";
import { MouseLook } from "./input/mouse.js";
import { Player } from "./player/player.js";
import { Recorder } from "./player/recorder.js";
import { explain } from "./session/close_reason.js";
import { Reconnect } from "./session/reconnect.js";
import { Session } from "./session/session.js";
import { Hud } from "./ui/hud.js";
import { cropToCover } from "./ui/image.js";
import { describeEnding, describePace, describeQueue, PAUSED, STARTING } from "./ui/notices.js";
import { Card, Countdown, Toast } from "./ui/overlay.js";
import { Settings } from "./ui/settings.js";
import { Start } from "./ui/start.js";

const RETRY_MS = 2000;
const OPENING = { title: "Opening the world", text: "A moment." };
const TOO_OLD =
  "This browser cannot draw from a worker. Chrome, Edge, Firefox or Safari of 2024 or later can.";
const NEEDS_TOKEN = "The token is not valid any more. Open the page with ?token= and a new one.";

const element = (id) => document.getElementById(id);
const card = new Card();
const toast = new Toast();
const countdown = new Countdown();
const hud = new Hud(element("hud"));
const keys = new Keys([...document.querySelectorAll("[data-key]")], (held) => session?.hold(held));
const mouse = new MouseLook(element("world"), keys);
const inputs = [keys, new Gamepad(keys), mouse]; // keys first: the others need it enabled
const recorder = new Recorder(element("world"), showRecording);
const settings = new Settings(changeOutput);
const start = new Start({ onEnter: enter, onChoose: setBackdrop });
const reconnect = new Reconnect({
  onTick: (seconds, attempt, maxAttempts) =>
    card.announceRetry(
      `A new walk from the same picture in ${seconds} s (try ${attempt} of ${maxAttempts}).`,
    ),
  onAttempt: () => openSession(),
});
let player = null; // null if this browser cannot run one
let world = null; // the answer of /v1/world
let choice = null; // { init, imageUrl } from the start screen, with later changes of the output
let session = null;
let playingSinceMs = null;

/** The state of the page, read only, for tests and the console. */
window.lingbot = Object.freeze({
  get state() {
    return session?.state ?? "start";
  },
  get stats() {
    return session === null ? null : Object.freeze({ ...session.stats, held: [...keys.held] });
  },
  /** Resolves to the displayed frame: { chunkIndex, frameIndex, width, height, data }. */
  lastFrame: () => player.readFrame(),
});

function setUp() {
  hideToken();
  try {
    const canvases = { world: element("world"), glow: element("glow") };
    player = new Player({ ...canvases, onUnsupported: () => start.notify(TOO_OLD) });
  } catch {
    start.notify(TOO_OLD);
    return;
  }
  element("record").hidden = !Recorder.isSupported;
  load();
}

/** Takes a token out of the address. The browser sends it on in a cookie, which scripts cannot read. */
function hideToken() {
  const address = new URL(location.href);
  if (!address.searchParams.has("token")) return;
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

async function load() {
  try {
    const response = await fetch(new URL("v1/world", document.baseURI));
    if (response.status === 401) {
      start.notify(NEEDS_TOKEN);
      return;
    }
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

function setBackdrop(url) {
  document.body.style.setProperty("--backdrop", `url("${new URL(url, document.baseURI)}")`);
}

/** Enters a world at the user's request. */
function enter(chosen) {
  choice = chosen;
  reconnect.stop();
  openSession();
}

function openSession() {
  const url = new URL("v1/realtime_video/generate", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const fields = { fps: world.fps, extensions: true, realtime_cut_over: true };
  playingSinceMs = null;
  session = new Session(
    url,
    { type: "init", ...fields, ...choice.init },
    {
      player,
      world,
      onState,
      onFrameShown,
      onEnd,
      onCodec: (codec) => settings.setFormat(codec),
      onNotice: (text) => toast.show(text),
      onPace: (message) => toast.show(describePace(message)),
      onEnding,
    },
  );
  showScreen("waiting");
  card.show(OPENING);
  hud.write(session.stats);
  settings.show(choice.init);
  element("live-prompt").value = choice.init.prompt ?? "";
  showOpening(session);
}

/** Shows the opening image until the first frame. */
async function showOpening(opened) {
  const size = choice.init.size.split("x").map(Number);
  const image = await cropToCover(choice.imageUrl, size).catch(() => null); // it is optional
  if (opened === session && image !== null) player.showImage(image);
  else image?.close();
}

function onState(state, detail) {
  if (state === "queued") {
    card.show(describeQueue(detail));
  } else if (state === "starting") {
    card.show(STARTING);
  } else if (state === "opening") {
    card.show(OPENING);
  } else if (state === "paused") {
    card.show({ ...PAUSED, resting: true });
  } else if (state === "playing") {
    playingSinceMs ??= performance.now();
    card.hide();
    showScreen("playing");
    enableInputs(true);
  }
}

/** message: the announced end, or null if it was taken back. */
function onEnding(message) {
  if (message === null) countdown.stop();
  else countdown.start(message.in_s, describeEnding(message));
}

function onFrameShown() {
  hud.update(performance.now(), session.stats);
}

function onEnd(end) {
  enableInputs(false);
  toast.hide(); // the card repeats its text
  countdown.stop();
  const { title, hint, detail, isTransient, retryAfterS } = explain(end);
  showScreen("ended");
  card.show({ title, text: hint, detail, ended: true });
  element("again").focus();
  if (isTransient) {
    const playedMs = playingSinceMs === null ? 0 : performance.now() - playingSinceMs;
    reconnect.start(playedMs, retryAfterS);
  }
}

function leave() {
  enableInputs(false);
  reconnect.stop();
  session.close();
  session = null;
  toast.hide();
  countdown.stop();
  showScreen("start");
  start.focus();
}

function enableInputs(enabled) {
  for (const input of inputs) input.enabled = enabled;
  element("record").disabled = !enabled;
  if (!enabled) recorder.stop();
}

function showScreen(name) {
  document.body.dataset.screen = name;
  element("start").hidden = name !== "start";
  element("stage").hidden = name === "start";
}

function showRecording(seconds) {
  const clock = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  element("record").setAttribute("aria-pressed", String(seconds !== null));
  element("record-text").textContent = seconds === null ? "Record" : clock;
}

/** Changes how frames are encoded, for this session and the next ones. */
function changeOutput(fields) {
  Object.assign(choice.init, fields);
  session.changeOutput(fields);
}

/** Esc leaves the innermost state: a popover, the pointer lock, a text field, the session. */
function onEscape(event) {
  if (document.querySelector(":popover-open") !== null) return; // the browser closes it
  if (mouse.isLocked) mouse.release();
  else if (isTyping(event)) event.target.blur();
  else leave();
}

/** Any key or touch ends a pause. */
function resume() {
  if (session?.state === "paused") session.resume();
}

element("leave").addEventListener("click", leave);
element("back").addEventListener("click", leave);
element("again").addEventListener("click", () => enter(choice));
element("record").addEventListener("click", () => recorder.toggle());
element("change").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = element("live-prompt").value.trim();
  if (prompt !== "" && ["playing", "paused"].includes(session.state)) session.changePrompt(prompt);
  element("live-prompt").blur(); // gives the keys back to the walk
});
window.addEventListener("pointerdown", resume);
window.addEventListener("keydown", (event) => {
  if (document.body.dataset.screen === "start") return;
  if (event.key === "Escape") onEscape(event);
  else resume();
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat;
  if (event.code === "KeyR" && isPlain && !isTyping(event) && session.state === "playing") {
    recorder.toggle();
  }
});
setUp();
