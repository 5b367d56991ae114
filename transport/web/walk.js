/** A walk through one world: its sessions, one after the other, and what the screen shows of them. */

import { socketUrl } from "./server.js";
import { explain } from "./session/close_reason.js";
import { Reconnect } from "./session/reconnect.js";
import { Session } from "./session/session.js";
import { Source } from "./session/source.js";
import { Stream } from "./stream.js";
import { cropToCover } from "./ui/image.js";
import * as notices from "./ui/notices.js";

const REFUSALS = ["refused", "too_large", "session_gone"]; // of what the init has given

export class Walk {
  #player;
  #world;
  #keys;
  #portable;
  #ui;
  #listeners;
  #source;
  #stream;
  #session = null;
  #reconnect = new Reconnect({
    onTick: (...wait) => this.#announceAttempt(...wait),
    onAttempt: () => this.#open(),
  });
  #isOnScreen = false; // from the first frame to an end that is shown
  #playingSinceMs = null;
  #lossText = ""; // why the last session was lost, while its world goes on

  choice;
  isLost = false; // true if the last session ended for a transient reason

  /**
   * choice: { kind, name, fields, output, prompt, size, imageUrl }. `kind` is "opening", "file",
   * "kept" or "fork"; `fields` are of an init, for `output` see Output. Only an opening has the last two.
   * parts: player, world (the answer of /v1/world), keys, portable and ui, which is { card, toast,
   * countdown, hud, settings, mark }.
   * listeners: onScreen(name), "waiting", "playing" or "ended"; onInputs(enabled);
   * onRefused(reason): the server does not take the choice, and the walk is over;
   * onKeptRefused(): the server does not take the snapshot that was kept.
   */
  constructor(choice, { player, world, keys, portable, ui }, listeners) {
    this.choice = choice;
    this.#source = new Source(choice.fields);
    this.#player = player;
    this.#world = world;
    this.#keys = keys;
    this.#portable = portable;
    this.#ui = ui;
    this.#stream = new Stream(choice.output, ui);
    this.#listeners = listeners;
    portable.begin();
    this.#open();
  }

  get session() {
    return this.#session;
  }

  /** Tries at once what a countdown would try, or what it gave up. */
  retry() {
    this.#reconnect.stop();
    this.#open();
  }

  /** Changes how frames are encoded, for this session and the next ones. */
  changeOutput(fields) {
    this.#stream.change(fields);
    this.choice.output = this.#stream.chosen;
  }

  changePrompt(prompt) {
    if (!["playing", "paused"].includes(this.#session.state)) return;
    this.choice.prompt = prompt;
    this.choice.fields = { ...this.choice.fields, prompt };
    this.#source.setPrompt(prompt);
    this.#session.changePrompt(prompt);
  }

  leave() {
    this.#reconnect.stop();
    this.#session.close();
    this.#portable.close();
    this.#ui.toast.hide();
    this.#ui.countdown.stop();
  }

  #open() {
    const ui = this.#ui;
    const init = { type: "init", fps: this.#world.fps, extensions: true, realtime_cut_over: true };
    this.#playingSinceMs = null;
    this.#session = new Session(
      socketUrl(),
      { ...init, ...this.#stream.fields, ...this.#source.fields },
      {
        player: this.#player,
        world: this.#world,
        onOpened: (message) => this.#onOpened(message),
        onMoved: (message) => this.#onMoved(message),
        onState: (state, detail) => this.#onState(state, detail),
        onFrameShown: () => ui.hud.update(performance.now(), this.#session.stats),
        onPreview: (preview) => this.#portable.addMoment(preview),
        onChunk: (chunk) => this.#stream.addChunk(chunk),
        onCodec: (codec) => this.#stream.showCodec(codec),
        onCodecFailed: () => this.#dropCodec(),
        onNotice: (text) => ui.toast.show(text),
        onPace: (message) => ui.toast.show(notices.describePace(message)),
        onEnding: (message) => this.#onEnding(message),
        onEnd: (end) => this.#onEnd(end),
      },
    );
    this.#stream.open(this.#session, this.choice.size);
    if (this.#isOnScreen) return; // the last frame stays
    this.#listeners.onScreen("waiting");
    ui.card.show(notices.OPENING);
    ui.hud.write(this.#session.stats);
    if (this.choice.kind === "opening") this.#showOpening(this.#session);
  }

  #dropCodec() {
    this.#stream.dropCodec();
    this.choice.output = this.#stream.chosen;
  }

  /** Shows the opening image until the first frame. */
  async #showOpening(opened) {
    const { size, imageUrl } = this.choice;
    const image = await cropToCover(imageUrl, size.split("x").map(Number)).catch(() => null);
    if (opened === this.#session && image !== null) this.#player.showImage(image);
    else image?.close(); // it is optional
  }

  /** message: `session`. */
  #onOpened(message) {
    if (this.#lossText === notices.GOES_ON_FROM_KEPT) this.#ui.toast.show(this.#lossText);
    else if (this.#lossText !== "") this.#ui.toast.hide();
    this.#lossText = "";
    this.#source.setToken(message.resume_token ?? null);
    this.#portable.open(this.#session, message, {
      onKept: (snapshot) => this.#source.setSnapshot(snapshot),
      describe: () => ({ prompt: this.choice.prompt, output: this.choice.output }),
    });
    this.#stream.opened(message);
    if (this.#keys.held.length > 0) this.#session.hold(this.#keys.held); // since the last session
  }

  /** message: `moved`. */
  #onMoved({ resume_token: token }) {
    if (token) this.#source.setToken(token);
    this.#ui.toast.show(notices.MOVED);
  }

  #onState(state, detail) {
    const { card } = this.#ui;
    if (state === "queued") {
      card.show(notices.describeQueue(detail));
    } else if (state === "starting") {
      card.show(notices.STARTING);
    } else if (state === "opening") {
      card.show(notices.OPENING);
    } else if (state === "paused") {
      card.show({ ...notices.PAUSED, resting: true });
      this.#stream.restart();
    } else if (state === "playing") {
      this.#isOnScreen = true;
      this.#playingSinceMs ??= performance.now();
      card.hide();
      this.#listeners.onScreen("playing");
      this.#listeners.onInputs(true);
      this.#portable.enabled = true;
    }
  }

  /** message: the announced end, or null if it was taken back. */
  #onEnding(message) {
    const { countdown } = this.#ui;
    if (message === null) countdown.stop();
    else countdown.start(message.in_s, notices.describeEnding(message));
  }

  #onEnd(end) {
    this.#ui.countdown.stop();
    this.#portable.close();
    const reason = explain(end);
    this.isLost = false;
    // Without a code, the server refused the init.
    if (end.code === null && REFUSALS.includes(reason.cause)) this.#onRefusal(reason);
    else if (reason.isTransient) this.#onLoss(reason);
    else this.#showEnd(reason);
  }

  #onLoss(reason) {
    const sinceMs = this.#playingSinceMs;
    const playedMs = sinceMs === null ? 0 : performance.now() - sinceMs;
    this.isLost = true;
    this.#lossText = `${reason.title}.`;
    if (!this.#goesOn) this.#showEnd(reason);
    const options = { afterS: reason.retryAfterS, atOnce: this.#goesOn };
    if (this.#reconnect.start(playedMs, options)) return;
    this.#showEnd(reason);
    this.#ui.card.announceRetry(notices.GAVE_UP);
  }

  /** Goes on with the next best source, if there is one. */
  #onRefusal(reason) {
    const { kind } = this.#source;
    if (kind === "choice" && this.choice.kind !== "opening") {
      this.#listeners.onRefused(reason);
      return;
    }
    this.#source.drop();
    if (this.#goesOn) {
      this.#lossText = notices.GOES_ON_FROM_KEPT;
      this.#ui.toast.keep(this.#lossText);
      this.#open();
    } else if (kind === "snapshot") {
      this.#listeners.onKeptRefused();
      this.#showEnd({ ...reason, hint: notices.KEPT_REFUSED });
    } else if (kind === "session" && this.choice.kind === "opening") {
      this.#onLoss(reason); // a new walk, as the card announces
    } else {
      this.#showEnd(reason);
    }
  }

  /** True if the next session opens the same world where it was. */
  get #goesOn() {
    return this.#source.kind !== "choice";
  }

  #showEnd({ title, hint, detail }) {
    this.#isOnScreen = false;
    this.#listeners.onInputs(false);
    this.#ui.toast.hide(); // the card repeats its text
    this.#ui.card.show({ title, text: hint, detail, ended: true });
    this.#listeners.onScreen("ended"); // last: it moves the focus to a button of the card
  }

  #announceAttempt(seconds, attempt, maxAttempts) {
    const text = notices.describeRetry(seconds, attempt, maxAttempts, { goesOn: this.#goesOn });
    if (this.#isOnScreen) this.#ui.toast.keep(`${this.#lossText} ${text}`);
    else this.#ui.card.announceRetry(text);
  }
}
