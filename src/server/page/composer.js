// The box at the bottom: text, what is attached, the microphone, send and stop.

import { $, announce, clock, h, icon, setIcon } from "./dom.js";
import { kindOf } from "./model.js";
import { LONGEST, Recorder } from "./recorder.js";
import { change, settings } from "./settings.js";
import { speaker } from "./speaker.js";
import { drawBars } from "./waveform.js";

const TAP = 350; // milliseconds: a shorter press of the microphone lets it run until the next press

export class Composer {
  #attached = []; // {file, kind, url}
  #recorder = null;
  #levels = [];
  #pressed = 0;
  #starting = null;

  /** `actions`: send(text, [{blob, kind, name, spoken}]), stop(), complain(text), busy(), endHandsFree() */
  constructor(actions) {
    this.actions = actions;
    this.text = $("message");
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.text.addEventListener("input", () => this.#fit());
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !event.altKey) {
        event.preventDefault();
        this.submit();
      }
    });
    $("stop").addEventListener("click", () => actions.stop());
    $("speak").addEventListener("click", () => {
      change({ speak: !settings.speak });
      this.showSpeak();
      if (!settings.speak) speaker.pause();
    });
    this.#connectFiles();
    this.#connectMicrophone();
  }

  /** Whether speech is offered at all, and whether it is on. */
  showSpeak(offered = !$("speak").hidden) {
    $("speak").hidden = !offered;
    $("speak").setAttribute("aria-pressed", String(settings.speak));
    $("speak").lastElementChild.textContent = settings.speak ? "Speech on" : "Speech off";
    setIcon($("speak"), settings.speak ? "sound" : "mute");
  }

  showBusy(busy) {
    const moved = document.activeElement === $("send") || document.activeElement === $("stop");
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    $("talk").disabled = busy;
    if (moved) this.text.focus();
  }

  /** Puts a message back for another try. */
  fill(text, files) {
    this.text.value = text;
    this.#attached = [];
    this.attach(files);
    this.#showAttached();
    this.#fit();
    this.text.focus();
    this.text.setSelectionRange(text.length, text.length);
  }

  submit(spoken = null) {
    if (this.actions.busy()) {
      this.actions.complain("An answer is being made. Stop it first (Escape), or wait for its end.");
      return;
    }
    const text = this.text.value.trim();
    const files = this.#attached.map(({ file, kind }) => ({ blob: file, kind, name: file.name || kind }));
    if (spoken) files.push({ blob: spoken, kind: "audio", name: "Spoken", spoken: true });
    if (!text && files.length === 0) return;
    speaker.unlock();
    this.text.value = "";
    for (const { url } of this.#attached) URL.revokeObjectURL(url);
    this.#attached = [];
    this.#showAttached();
    this.#fit();
    this.actions.send(text, files);
  }

  #fit() {
    this.text.style.height = "auto";
    this.text.style.height = `${Math.min(this.text.scrollHeight, window.innerHeight * 0.4)}px`;
  }

  // Files: chosen, dropped, pasted.

  #connectFiles() {
    $("attach").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", () => {
      this.attach([...$("files").files]);
      $("files").value = "";
      this.text.focus();
    });
    document.addEventListener("paste", (event) => {
      if (document.querySelector("dialog[open]")) return;
      const files = [...(event.clipboardData?.files || [])];
      if (!files.length) return;
      event.preventDefault();
      this.attach(files);
    });
    const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    let inside = 0;
    document.addEventListener("dragenter", (event) => { if (carriesFiles(event)) { inside++; $("drop").hidden = false; } });
    document.addEventListener("dragleave", (event) => { if (carriesFiles(event) && --inside <= 0) { inside = 0; $("drop").hidden = true; } });
    document.addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
    document.addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      inside = 0;
      $("drop").hidden = true;
      this.attach([...event.dataTransfer.files]);
      this.text.focus();
    });
  }

  attach(files) {
    for (const file of files) {
      const kind = kindOf(file);
      if (kind) this.#attached.push({ file, kind, url: URL.createObjectURL(file) });
      else this.actions.complain(`${file.name || "This"} is not a picture, a sound or a video.`);
    }
    this.#showAttached();
    if (files.length && this.#attached.length) announce(`${this.#attached.length} attached`);
  }

  #showAttached() {
    const list = $("attachments");
    list.hidden = this.#attached.length === 0;
    list.replaceChildren(...this.#attached.map((entry) => {
      const { file, kind, url } = entry;
      let picture = icon(kind === "audio" ? "sound" : kind === "video" ? "film" : "picture");
      if (kind === "image") {
        const symbol = picture;
        picture = h("img", { alt: "", src: url });
        picture.addEventListener("error", () => picture.replaceWith(symbol), { once: true });
      }
      return h("li", {}, picture, h("span", { class: "name" }, file.name || kind), h("button", {
        type: "button", class: "ghost round tiny", "aria-label": `Remove ${file.name || kind}`,
        onclick: () => {
          URL.revokeObjectURL(url);
          this.#attached = this.#attached.filter((other) => other !== entry);
          this.#showAttached();
          this.text.focus();
        },
      }, icon("close")));
    }));
  }

  // The microphone: held, it sends when it is let go; pressed shortly, it runs until it is pressed again.

  #connectMicrophone() {
    const button = $("talk");
    const press = () => {
      if (this.#recorder) {
        this.#finish();
        return;
      }
      this.#pressed = performance.now();
      this.#begin();
    };
    const release = () => {
      if (this.#recorder && this.#pressed && performance.now() - this.#pressed > TAP) this.#finish();
      this.#pressed = 0;
    };
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || button.disabled) return;
      button.setPointerCapture(event.pointerId);
      press();
    });
    button.addEventListener("pointerup", release);
    button.addEventListener("pointercancel", release);
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("keydown", (event) => {
      if ((event.key !== " " && event.key !== "Enter") || event.repeat) return;
      event.preventDefault();
      press();
    });
    button.addEventListener("keyup", (event) => { if (event.key === " " || event.key === "Enter") release(); });
    // Assistive technology clicks without pressing.
    button.addEventListener("click", (event) => { if (event.detail === 0 && event.pointerType === "" && !this.#pressed) this.talk(); });
    $("cancel-recording").addEventListener("click", () => (this.handsFree ? this.actions.endHandsFree() : this.cancel()));
    window.addEventListener("pagehide", () => this.cancel());
  }

  get recording() { return this.#recorder !== null; }

  /** Begins to record, or sends what was recorded. */
  talk() {
    if (this.#recorder) this.#finish();
    else this.#begin();
  }

  async #begin() {
    if (this.actions.busy() || this.handsFree) return;
    speaker.unlock();
    speaker.pause();
    this.#levels = [];
    const recorder = this.#recorder = new Recorder((peak, seconds) => {
      this.showLevel(peak);
      $("recording-time").textContent = clock(seconds);
      if (seconds >= LONGEST) this.#finish();
    });
    this.#showRecording(true);
    this.#starting = recorder.start();
    try {
      await this.#starting;
      announce("Listening");
    } catch (error) {
      recorder.close();
      if (this.#recorder === recorder) this.#recorder = null;
      this.#showRecording(false);
      this.actions.complain(error.message);
    }
  }

  async #finish() {
    const recorder = this.#recorder;
    if (!recorder) return;
    this.#recorder = null;
    this.#showRecording(false);
    try {
      await this.#starting;
      const blob = await recorder.stop();
      if (blob) this.submit(blob);
      else this.actions.complain("That was too short to hear. Hold the microphone while you speak.");
    } catch {
      // Said already where recording began.
    }
  }

  cancel() {
    const recorder = this.#recorder;
    if (!recorder) return;
    this.#recorder = null;
    this.#starting?.then(() => recorder.close(), () => {});
    this.#showRecording(false);
    announce("Recording thrown away");
  }

  /** The bar of the hands-free mode: "Listening", "Thinking" and so on; null when it has ended. */
  showHandsFree(state) {
    this.handsFree = state !== null;
    this.#levels = state === null || $("recording").hidden ? [] : this.#levels;
    $("recording").hidden = state === null;
    $("recording-text").textContent = state ?? "Listening";
    $("recording-time").textContent = "";
    $("cancel-recording").textContent = state === null ? "Cancel" : "End";
    $("handsfree").setAttribute("aria-pressed", String(this.handsFree));
    $("talk").disabled = this.handsFree;
  }

  showLevel(peak) {
    this.#levels.push(peak);
    if (this.#levels.length > 80) this.#levels.shift();
    drawBars($("level"), this.#levels, 1, Math.min(1, this.#levels.length / 80));
  }

  #showRecording(on) {
    $("recording").hidden = !on;
    $("recording-time").textContent = "0:00";
    $("talk").classList.toggle("on", on);
    $("talk").setAttribute("aria-label", on ? "Send what was said" : "Push to talk");
    $("composer").classList.toggle("listening", on);
  }
}
