// What the user chose, kept in this browser's local storage; and the dialog that changes it.

import { $, h } from "./dom.js";

const KEY = "omni.settings";
const NUMBERS = ["temperature", "top_p", "top_k", "presence_penalty", "max_completion_tokens", "seed"];
const TEXTS = ["model", "voice", "system", "theme", "key"];

function load() {
  const values = { speak: true, ...Object.fromEntries([...NUMBERS, ...TEXTS].map((name) => [name, ""])) };
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) || "{}");
    for (const name of Object.keys(values)) if (typeof kept[name] === typeof values[name]) values[name] = kept[name];
  } catch {
    // Unreadable or switched off: defaults.
  }
  return values;
}

/** speak (bool); all others are strings, numbers as they were typed, "" for the server's default. */
export const settings = load();

/** Changes some settings and keeps them. */
export function change(values) {
  Object.assign(settings, values);
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // Not kept; they hold until the page is closed.
  }
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}

/** The sampling settings as fields of a request: only those that were set. */
export function sampling() {
  const fields = {};
  for (const name of NUMBERS) if (settings[name] !== "" && Number.isFinite(Number(settings[name]))) fields[name] = Number(settings[name]);
  return fields;
}

/** Fills a select with names; `chosen` stays chosen if it is among them, else the first, called `first`, is. */
export function offer(select, names, chosen, first) {
  select.replaceChildren(h("option", { value: "" }, first), ...names.map((name) => h("option", { value: name }, name)));
  select.value = names.includes(chosen) ? chosen : "";
}

/** Connects the dialog. `changed(name)` is called after each change. */
export function connectSettings(changed) {
  const dialog = $("settings");
  for (const name of [...NUMBERS, ...TEXTS]) {
    const field = $(`s-${name}`);
    field.value = settings[name];
    field.addEventListener("change", () => {
      if (!field.reportValidity()) return;
      change({ [name]: field.value.trim() });
      changed(name);
    });
  }
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    document.activeElement?.blur?.();
    dialog.close();
  });
  closable(dialog);
}

/** Shows the dialog, with the system prompt of the conversation at hand. */
export function showSettings(system) {
  for (const name of [...NUMBERS, ...TEXTS]) if ($(`s-${name}`).tagName !== "SELECT") $(`s-${name}`).value = settings[name];
  $("s-system").value = system;
  $("s-theme").value = settings.theme;
  $("settings").showModal();
}

/** A dialog that closes by its buttons marked data-close and by a click beside it. Escape is the browser's own. */
export function closable(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

let settle = null;

/** Asks for a text or, without a label, for a yes. Resolves to the text (or true), or null if it was cancelled. */
export function ask({ title, text = "", label = "", value = "", ok = "OK", secret = false, danger = false }) {
  const dialog = $("ask");
  const input = $("ask-input");
  if (settle === null) {
    closable(dialog);
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.returnValue = "ok";
      dialog.close("ok");
    });
    dialog.addEventListener("close", () => settle(dialog.returnValue === "ok"));
  }
  if (dialog.open) return Promise.resolve(null); // one question at a time
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-label").textContent = label;
  $("ask-field").hidden = label === "";
  input.type = secret ? "password" : "text";
  input.value = value;
  $("ask-ok").textContent = ok;
  $("ask-ok").classList.toggle("danger", danger);
  dialog.returnValue = "";
  dialog.showModal();
  if (label) input.select();
  else $("ask-ok").focus();
  return new Promise((resolve) => {
    settle = (yes) => resolve(yes ? (label ? input.value : true) : null);
  });
}
