// The page: conversations, what is shown of them, and who does what.

import { $, announce, saveAs } from "./dom.js";
import * as api from "./api.js";
import * as store from "./store.js";
import { makeAnswer, newAnswer } from "./answer.js";
import { Composer } from "./composer.js";
import { asJson, asMarkdown, fileName } from "./export.js";
import { textOf, titleOf } from "./model.js";
import { HandsFree } from "./handsfree.js";
import { ask, change, connectSettings, offer, settings, showSettings } from "./settings.js";
import { connectDrawer, drawerOpen, openDrawer, showConversations } from "./sidebar.js";
import { Track, speaker } from "./speaker.js";
import { View, summary } from "./view.js";
import { readWav } from "./wav.js";

let list = []; // conversations, the latest first
let current = null; // the one shown; not in the list until its first message
let messages = []; // of the one shown
const running = new Map(); // conversation id -> AbortController
let voices = [];
let handsFree = null; // while it is on

const view = new View({ regenerate, edit, readAloud, key: (message) => askKey().then((given) => given && regenerate(message)), canSpeak: () => voices.length > 0 });
const composer = new Composer({ send, stop, complain, busy: () => running.has(current.id), endHandsFree });

// Conversations

function fresh() {
  const now = Date.now();
  return { id: store.newId(), title: "New conversation", created: now, updated: now, system: settings.system };
}

/** Shows a conversation; without one, an empty new one. */
async function choose(conversation) {
  endHandsFree();
  speaker.pause();
  current = conversation || fresh();
  messages = conversation ? await store.messagesOf(conversation.id) : [];
  // What a closed page left unfinished.
  for (const message of messages) if (message.state === "running" && !running.has(current.id)) message.state = "stopped";
  const live = running.get(current.id)?.answer;
  messages = messages.map((message) => (live && message.id === live.id ? live : message));
  history.replaceState(null, "", conversation ? `#${conversation.id}` : location.pathname + location.search);
  view.show(messages);
  complain("");
  showAround();
  openDrawer(false);
}

/** All that surrounds the messages. */
function showAround() {
  $("title").textContent = current.title;
  document.title = current.title === "New conversation" ? "omni" : `${current.title} · omni`;
  $("export").hidden = messages.length === 0;
  composer.showBusy(running.has(current.id));
  showConversations(list, current.id, {
    choose: (conversation) => choose(conversation).then(() => $("message").focus()),
    rename, remove,
  });
}

async function keepConversation(conversation) {
  conversation.updated = Date.now();
  if (!list.includes(conversation)) list.push(conversation);
  list.sort((a, b) => b.updated - a.updated);
  await store.putConversation(conversation);
}

async function rename(conversation) {
  const title = (await ask({ title: "Rename the conversation", label: "Name", value: conversation.title, ok: "Rename" }))?.trim();
  if (!title) return;
  conversation.title = title.slice(0, 200);
  await store.putConversation(conversation);
  showAround();
}

async function remove(conversation) {
  if (!(await ask({ title: "Delete the conversation?", text: `“${conversation.title}” with its pictures, sounds and videos is removed from this browser.`, ok: "Delete", danger: true }))) return;
  running.get(conversation.id)?.abort();
  list = list.filter((other) => other !== conversation);
  await store.removeConversation(conversation.id);
  if (conversation === current) await choose(null);
  else showAround();
  announce("Deleted");
  $("message").focus();
}

// Asking and answering

async function send(text, files) {
  endHandsFree();
  const conversation = current;
  const parts = [];
  try {
    for (const { blob, kind, name, spoken } of files) {
      parts.push({ type: kind, media: await store.putMedia(conversation.id, blob, name), name, mime: blob.type, ...(spoken ? { spoken } : {}) });
    }
    if (text) parts.push({ type: "text", text });
    const message = { id: store.newId(), conversation: conversation.id, order: nextOrder(), role: "user", parts };
    await store.putMessage(message);
    await append(message);
    view.toEnd();
  } catch (error) {
    complain(error.message);
    composer.fill(text, files.map(({ blob, name }) => new File([blob], name, { type: blob.type })));
    return;
  }
  await answer(conversation);
}

/** Adds a message to the conversation shown, which is kept from its first one on. */
async function append(message) {
  if (!messages.length && current.title === "New conversation" && message.role === "user") current.title = titleOf(message);
  messages.push(message);
  view.add(message);
  history.replaceState(null, "", `#${current.id}`);
  await keepConversation(current);
  showAround();
}

const nextOrder = () => (messages.at(-1)?.order ?? 0) + 1;

/** Lets the server answer the conversation shown, as it is now. */
async function answer(conversation) {
  complain("");
  const control = new AbortController();
  const made = newAnswer(conversation.id, nextOrder());
  const before = [...messages];
  control.answer = made;
  running.set(conversation.id, control);
  messages.push(made);
  view.add(made);
  view.toEnd();
  showAround();
  announce("The answer is being made");
  await store.putMessage(made).catch(() => {});
  const speak = settings.speak && !$("speak").hidden;
  const shown = () => current === conversation;
  await makeAnswer({ conversation, before, answer: made, signal: control.signal, speak, changed: () => view.update(made), audible: () => shown() && settings.speak });
  running.delete(conversation.id);
  view.update(made);
  if (!list.includes(conversation)) return store.removeConversation(conversation.id); // deleted meanwhile
  await keepConversation(conversation).catch(() => {});
  if (shown()) showAround();
  if (made.keyMissing && shown()) askKey().then((given) => given && regenerate(made));
  // Who listens to the speech need not hear a second voice.
  announce(made.state === "failed" ? made.error : made.state === "stopped" ? "Stopped" : made.live ? "The answer has ended" : made.text);
}

function stop() {
  running.get(current.id)?.abort();
  speaker.pause();
}

/** Forgets this message and what follows. */
async function forget(message) {
  const at = messages.indexOf(message);
  if (at < 0) return;
  const gone = messages.splice(at);
  for (const old of gone) view.remove(old);
  await store.removeMessages(gone);
}

async function regenerate(message) {
  if (running.has(current.id) || !messages.includes(message)) return;
  speaker.pause();
  await forget(message);
  await answer(current);
}

/** Puts a message back into the box, and forgets it and what followed. */
async function edit(message) {
  if (running.has(current.id)) return;
  const files = [];
  for (const part of message.parts) {
    const kept = part.media && (await store.media(part.media));
    if (kept) files.push(new File([kept.blob], part.name, { type: part.mime }));
  }
  if (messages.at(-1) !== message && messages.indexOf(message) < messages.length - 2
    && !(await ask({ title: "Ask again from here?", text: "What follows this message is removed.", ok: "Ask again" }))) return;
  await forget(message);
  composer.fill(textOf(message), files);
  showAround();
}

/** Speaks an answer that came without speech. */
async function readAloud(message, button) {
  speaker.unlock();
  button.disabled = true;
  try {
    const { samples, rate } = await readWav(await api.speech(message.text, settings.voice));
    const track = new Track(rate);
    track.append(samples);
    track.finish();
    message.live = track;
    message.speech = summary(track, await store.putMedia(message.conversation, track.blob(), "answer.wav"));
    const { live, ...plain } = message;
    await store.putMessage(plain);
    view.update(message);
    button.remove();
    speaker.play(live);
  } catch (error) {
    button.disabled = false;
    complain(error.status === 404 ? "This server does not read texts aloud." : error.message);
  }
}

// Without hands

async function beginHandsFree() {
  if (handsFree) return endHandsFree();
  if (running.has(current.id)) return undefined;
  speaker.unlock();
  speaker.pause();
  complain("");
  const conversation = current;
  const here = handsFree = new HandsFree({
    conversation, complain, nextOrder,
    messages: () => messages,
    add: (message) => (current === conversation ? append(message) : undefined),
    update: (message) => view.update(message),
    state: (text) => { if (handsFree === here) composer.showHandsFree(text); },
    level: (peak) => { if (handsFree === here) composer.showLevel(peak); },
    audible: () => current === conversation,
    ended: (reason) => {
      if (reason) complain(reason);
      if (handsFree === here) endHandsFree();
    },
  });
  composer.showHandsFree("Opening");
  try {
    await here.start();
    if (handsFree !== here) here.stop();
    else announce("Listening. Speak whenever you like.");
  } catch (error) {
    if (handsFree === here) endHandsFree();
    complain(error.message);
  }
  return undefined;
}

function endHandsFree() {
  const was = handsFree;
  if (!was) return;
  handsFree = null;
  was.stop();
  speaker.pause();
  composer.showHandsFree(null);
  announce("No longer listening");
  $("message").focus();
}

// The server

/** Says in words what went wrong; "" takes it back. */
function complain(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

async function askKey() {
  const key = await ask({ title: "An API key is needed", text: "The server answers only to those who have one of its keys. It is kept in this browser.", label: "API key", value: settings.key, ok: "Use it", secret: true });
  if (key === null) return false;
  change({ key: key.trim() });
  $("s-key").value = settings.key;
  return meet();
}

/** Learns what the server has: models, voices. Resolves to whether it answered. */
async function meet() {
  try {
    const [names, props] = await Promise.all([api.models(), api.props()]);
    voices = await api.voices();
    offer($("s-model"), names, settings.model, "The server's");
    offer($("s-voice"), voices, settings.voice, voices.length ? "The model's first" : "This model does not speak");
    change({ model: $("s-model").value, voice: $("s-voice").value });
    $("row-model").hidden = names.length < 2;
    $("s-voice").disabled = voices.length === 0;
    $("model").textContent = settings.model || names[0] || "";
    composer.showSpeak(voices.length > 0 && (props.output_modalities || ["audio"]).includes("audio"));
    $("handsfree").hidden = !props.realtime || voices.length === 0;
    complain("");
    return true;
  } catch (error) {
    if (error.status === 401) return askKey();
    complain(error.message);
    return false;
  }
}

// Keys and buttons

function connect() {
  connectDrawer();
  connectSettings((name) => {
    if (name === "system") {
      current.system = settings.system;
      if (list.includes(current)) store.putConversation(current).catch((error) => complain(error.message));
    }
    if (name === "key") meet();
    if (name === "model") $("model").textContent = settings.model;
  });
  $("new").addEventListener("click", begin);
  $("handsfree").addEventListener("click", beginHandsFree);
  $("open-settings").addEventListener("click", () => showSettings(current.system));
  $("export-markdown").addEventListener("click", () => save(asMarkdown, "md"));
  $("export-json").addEventListener("click", () => save(asJson, "json"));
  window.addEventListener("hashchange", () => {
    const wanted = list.find((conversation) => `#${conversation.id}` === location.hash);
    if (wanted && wanted !== current) choose(wanted);
  });
  window.addEventListener("online", meet);
  document.addEventListener("click", (event) => { if (!$("export").contains(event.target)) $("export").open = false; });
  document.addEventListener("keydown", keys);
}

function begin() {
  choose(null).then(() => $("message").focus());
}

async function save(make, ending) {
  $("export").open = false;
  try {
    saveAs(await make(current, messages), fileName(current.title, ending));
    announce("Exported");
  } catch (error) {
    complain(error.message);
  }
}

function keys(event) {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "Escape") {
    if (composer.recording) composer.cancel();
    else if (handsFree) endHandsFree();
    else if ($("export").open) { $("export").open = false; $("export").firstElementChild.focus(); }
    else if (drawerOpen()) openDrawer(false);
    else if (running.has(current.id) || speaker.playing) stop();
    else return;
  } else if (event.altKey && event.code === "KeyN") begin();
  else if (event.altKey && event.code === "KeyM" && !event.repeat) composer.talk();
  else if (event.altKey && event.code === "Comma") showSettings(current.system);
  else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) $("message").focus();
  else return;
  event.preventDefault();
}

async function main() {
  connect();
  composer.showSpeak();
  const kept = await store.open();
  list = await store.conversations();
  await choose(list.find((conversation) => `#${conversation.id}` === location.hash) || null);
  $("message").focus();
  if (await meet() && !kept) complain("This browser lets the page keep nothing: conversations are gone when it is closed.");
  document.documentElement.dataset.ready = "";
}

main();
