/** The page: which screen is up, and what joins it to the walk. */

import { explain } from "./ending.js";
import { Hud } from "./hud.js";
import { Keys, isTyping } from "./keys.js";
import { paintCover } from "./picture.js";
import { Start } from "./start.js";
import { Walk } from "./walk.js";

const TOAST_MS = 6000;
const RETRY_MS = 2000;
const GLOW_EVERY = 4; // frames

const element = (id) => document.getElementById(id);
const context = element("world").getContext("2d", { alpha: false });
const glow = element("glow").getContext("2d", { alpha: false });
const hud = new Hud(element("hud"));
const keys = new Keys([...document.querySelectorAll("[data-key]")], (held) => walk?.hold(held));
const start = new Start({ onEnter: enter, onChoose: backdrop });
let world = null; // the answer of /v1/world
let choice = null; // what the start screen gave, for "Walk again"
let walk = null;
let toastTimer = 0;

/** For tests and the curious: read only. */
window.lingbot = Object.freeze({
  get state() {
    return walk?.state ?? "start";
  },
  get stats() {
    return walk === null ? null : Object.freeze({ ...walk.stats, held: [...keys.held] });
  },
  lastFrame() {
    const { width, height } = context.canvas;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    // A canvas that is read often moves to the CPU: read a copy, not the one on the screen.
    const reader = copy.getContext("2d", { willReadFrequently: true });
    reader.drawImage(context.canvas, 0, 0);
    return reader.getImageData(0, 0, width, height);
  },
});

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

function enter(chosen) {
  choice = chosen;
  const url = new URL("v1/realtime_video/generate", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const init = { type: "init", fps: world.fps, extensions: true, ...choice.init };
  walk = new Walk(url, init, { context, world, onState, onShow, onNotice: toast, onEnd });
  show("waiting");
  card({ title: "Opening the world", text: "A moment." });
  hud.write(walk.stats);
  element("live-prompt").value = choice.init.prompt ?? "";
  paintOpening(walk, choice);
}

/** Where the walk will begin, until its first frame comes. */
async function paintOpening(mine, { init, picture }) {
  const image = new Image();
  image.src = picture;
  await image.decode();
  if (mine === walk && mine.stats.framesShown === 0) {
    paintCover(context, image, init.size.split("x").map(Number));
  }
}

function onState(state, detail) {
  if (state === "queued") {
    card({
      title: "Waiting for a world",
      text: `All are taken. You are number ${detail.position} in line.`,
    });
  } else if (state === "warming") {
    card({ title: "Warming up", text: "The model is getting ready. This happens once." });
  } else if (state === "playing") {
    element("card").hidden = true;
    show("playing");
    keys.enabled = true;
  }
}

function onShow() {
  const { stats } = walk;
  if (stats.framesShown % GLOW_EVERY === 0) {
    glow.globalAlpha = 0.3;
    glow.drawImage(context.canvas, 0, 0, glow.canvas.width, glow.canvas.height);
  }
  hud.update(performance.now(), stats);
}

function onEnd(end) {
  keys.enabled = false;
  toast(""); // what it said is on the card
  const { title, hint, said } = explain(end);
  show("ended");
  card({ title, text: hint, said, over: true });
  element("again").focus();
}

function leave() {
  keys.enabled = false;
  walk.leave();
  walk = null;
  toast("");
  show("start");
  start.focus();
}

function show(screen) {
  document.body.dataset.screen = screen;
  element("start").hidden = screen !== "start";
  element("stage").hidden = screen === "start";
}

/** The card over the picture: what is awaited, or (over) why the walk ended. */
function card({ title, text, said = "", over = false }) {
  element("card-title").textContent = title;
  element("card-text").textContent = text;
  element("card-said").textContent = said;
  element("card-said").hidden = said === "";
  element("card-actions").hidden = !over;
  element("card").hidden = false;
}

function toast(text) {
  clearTimeout(toastTimer);
  element("toast").textContent = text;
  element("toast").hidden = text === "";
  if (text !== "") toastTimer = setTimeout(() => toast(""), TOAST_MS);
}

element("leave").addEventListener("click", leave);
element("back").addEventListener("click", leave);
element("again").addEventListener("click", () => enter(choice));
element("change").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = element("live-prompt").value.trim();
  if (prompt !== "" && walk.state === "playing") walk.changePrompt(prompt);
  element("live-prompt").blur(); // the keys walk again
});
window.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.body.dataset.screen === "start") return;
  if (isTyping(event.target)) event.target.blur();
  else leave();
});
load();
