// The messages on the screen. A message's element is made once and brought up to date as the answer grows.

import { $, h, icon, iconButton } from "./dom.js";
import { codeBlock, copyText, showMarkdown } from "./markdown.js";
import { textOf } from "./model.js";
import { readWav } from "./wav.js";
import { Track } from "./speaker.js";
import { soundControls } from "./waveform.js";
import * as store from "./store.js";

/** Object URLs of what is shown, given back when another conversation is. */
let urls = [];

async function urlOf(id) {
  const kept = await store.media(id);
  if (!kept) return null;
  const url = URL.createObjectURL(kept.mime && kept.blob.type !== kept.mime ? kept.blob.slice(0, kept.blob.size, kept.mime) : kept.blob);
  urls.push(url);
  return url;
}

/** A picture, sound or video of a user's message. What the browser cannot show is named instead. */
export function mediaElement(part, url) {
  const name = part.name || part.type;
  const named = () => h("span", { class: "file" }, icon(part.type === "image" ? "picture" : part.type === "video" ? "film" : "sound"), name);
  let element;
  if (part.type === "image") element = h("img", { alt: name, src: url });
  else if (part.type === "video") element = h("video", { controls: true, src: url, "aria-label": name, preload: "metadata", playsinline: true });
  else element = h("audio", { controls: true, src: url, "aria-label": name, preload: "metadata" });
  element.addEventListener("error", () => element.replaceWith(named()), { once: true });
  return element;
}

export class View {
  #elements = new Map(); // message id -> {item, update}
  #stuck = true;
  #frame = 0;
  #stale = new Set();

  /** `actions`: regenerate(message), edit(message), retry(message), readAloud(message), key() */
  constructor(actions) {
    this.actions = actions;
    this.scroll = $("scroll");
    this.scroll.addEventListener("scroll", () => {
      this.#stuck = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 60;
      $("latest").hidden = this.#stuck;
    });
    $("latest").addEventListener("click", () => {
      this.toEnd();
      $("message").focus();
    });
    new ResizeObserver(() => { if (this.#stuck) this.toEnd(); }).observe($("messages"));
  }

  toEnd() {
    this.#stuck = true;
    $("latest").hidden = true;
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  /** Shows a conversation's messages, and nothing of the one before. */
  show(messages) {
    for (const url of urls) URL.revokeObjectURL(url);
    urls = [];
    this.#elements.clear();
    this.messages = messages;
    $("messages").replaceChildren();
    for (const message of messages) this.add(message);
    this.refresh();
    this.toEnd();
  }

  add(message) {
    const made = message.role === "user" ? this.#user(message) : this.#assistant(message);
    this.#elements.set(message.id, made);
    $("messages").append(made.item);
    made.update();
    this.refresh();
    if (this.#stuck) this.toEnd();
  }

  remove(message) {
    this.#elements.get(message.id)?.item.remove();
    this.#elements.delete(message.id);
    this.refresh();
  }

  /** The message has changed. Drawn at most once a frame. */
  update(message) {
    if (!this.#elements.has(message.id)) return;
    this.#stale.add(message.id);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      for (const id of this.#stale) this.#elements.get(id)?.update();
      this.#stale.clear();
    });
  }

  /** What depends on which message is the last one. */
  refresh() {
    $("empty").hidden = this.#elements.size > 0;
    $("messages").hidden = this.#elements.size === 0;
  }

  #user(message) {
    const media = h("div", { class: "media" });
    const text = textOf(message);
    const parts = message.parts.filter((part) => part.type !== "text");
    media.hidden = parts.length === 0;
    for (const part of parts) {
      const place = h("div", { class: `medium ${part.type}` });
      media.append(place);
      urlOf(part.media).then((url) => place.append(url ? mediaElement(part, url) : h("span", { class: "file" }, `${part.name || part.type}: no longer there`)));
    }
    const tools = h("div", { class: "message-tools" },
      text && iconButton("copy", "Copy", () => copyText(text)),
      iconButton("edit", "Edit and ask again", () => this.actions.edit(message)));
    const item = h("li", { class: "message user" }, h("h2", { class: "hidden" }, "You"), media, text && h("p", { class: "bubble" }, text), tools);
    return { item, update() {} };
  }

  #assistant(message) {
    const thoughts = h("div", { class: "prose" });
    const thinking = h("details", { class: "thinking", hidden: true }, h("summary", {}, "Thoughts"), thoughts);
    const prose = h("div", { class: "prose" });
    const calls = h("div");
    const sound = h("div");
    const waiting = h("div", { class: "waiting", role: "img", "aria-label": "The answer is being made" }, h("span"), h("span"), h("span"));
    const note = h("p", { class: "note", hidden: true });
    const error = h("div", { class: "error", hidden: true });
    const tools = h("div", { class: "message-tools" });
    const item = h("li", { class: "message assistant" }, h("h2", { class: "hidden" }, "Answer"), thinking, prose, waiting, calls, sound, note, error, tools);
    let drawn = "", ended = null, track = null;

    const update = () => {
      const running = message.state === "running";
      item.setAttribute("aria-busy", String(running));
      waiting.hidden = !running || Boolean(message.text) || Boolean(message.live);
      thinking.hidden = !message.reasoning;
      if (message.reasoning) showMarkdown(thoughts, message.reasoning);
      if (message.text !== drawn) showMarkdown(prose, message.text);
      drawn = message.text;
      calls.replaceChildren(...message.calls.map((call) => codeBlock(call.arguments, `call of ${call.name}`)));
      if (message.live && track !== message.live) {
        track = message.live;
        sound.replaceChildren(soundControls({ track }, "answer"));
      } else if (!message.live && !track && message.speech) {
        track = message.speech;
        sound.replaceChildren(soundControls({ ...message.speech, load: () => loadTrack(message.speech.media) }, "answer"));
      }
      if (ended === message.state) return;
      ended = message.state;
      note.hidden = running || (message.state !== "stopped" && message.finish !== "length");
      note.textContent = message.state === "stopped" ? "Stopped." : "Cut short: the most tokens allowed were reached.";
      error.hidden = message.state !== "failed";
      if (message.state === "failed") {
        error.replaceChildren(h("p", {}, message.error), message.keyMissing
          ? h("button", { type: "button", onclick: () => this.actions.key(message) }, "Enter the key")
          : h("button", { type: "button", onclick: () => this.actions.regenerate(message) }, "Try again"));
      }
      tools.replaceChildren(...(running ? [] : [
        message.text && iconButton("copy", "Copy the answer", () => copyText(message.text)),
        message.text && !message.speech && !message.live && this.actions.canSpeak() && iconButton("sound", "Read aloud", (event) => this.actions.readAloud(message, event.currentTarget)),
        iconButton("again", "Answer again", () => this.actions.regenerate(message)),
      ].filter(Boolean)));
    };
    return { item, update };
  }
}

/** A kept sound as a track. */
export async function loadTrack(id) {
  const kept = await store.media(id);
  if (!kept) throw new Error("This sound is no longer there.");
  const { samples, rate } = await readWav(kept.blob);
  const track = new Track(rate);
  track.append(samples);
  track.finish();
  return track;
}

/** What is kept of a track: `count` peaks and how long it is. */
export function summary(track, media, count = 160) {
  const peaks = Array.from({ length: Math.min(count, track.peaks.length) }, (_, i, all = Math.min(count, track.peaks.length)) => {
    const from = Math.floor((i / all) * track.peaks.length), to = Math.max(from + 1, Math.floor(((i + 1) / all) * track.peaks.length));
    return Math.round(Math.max(...track.peaks.slice(from, to)) * 1000) / 1000;
  });
  return { media, duration: track.duration, peaks };
}

