// A track's controls: play and pause, a waveform that is also the slider, the time, and saving.

import { clock, h, iconButton, saveAs, setIcon } from "./dom.js";
import { speaker } from "./speaker.js";

const BAR = 3, GAP = 2;

/** Draws peaks (0 to 1) as bars over the whole width; `played` (0 to 1) of them in the accent colour. */
export function drawBars(canvas, peaks, played, filled = 1) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const bars = Math.max(1, Math.floor((width + GAP) / (BAR + GAP)));
  for (let i = 0; i < bars; i++) {
    const from = Math.floor((i / bars / filled) * peaks.length), to = Math.max(from + 1, Math.floor(((i + 1) / bars / filled) * peaks.length));
    let peak = 0;
    for (let k = from; k < Math.min(to, peaks.length); k++) peak = Math.max(peak, peaks[k]);
    // The square root lets quiet speech be seen.
    const size = Math.max(BAR, Math.sqrt(peak) * height);
    context.fillStyle = i / bars < played ? style.getPropertyValue("--accent") : style.getPropertyValue("--bar");
    context.beginPath();
    context.roundRect(i * (BAR + GAP), (height - size) / 2, BAR, size, BAR / 2);
    context.fill();
  }
}

/**
 * An element with the controls. `sound` is {track} for one that is there or arriving, or {peaks, duration, load} for a kept one, whose
 * samples `load()` fetches when they are first wanted.
 */
export function soundControls(sound, name) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const time = h("span", { class: "time" });
  const slider = h("div", { class: "wave", role: "slider", tabindex: "0", "aria-label": "Place in the speech", "aria-valuemin": "0" }, canvas);
  const play = iconButton("play", "Play", () => toggle());
  const save = iconButton("save", "Save the speech as a WAV file", async () => saveAs((await ready()).blob(), `${name}.wav`));
  const element = h("div", { class: "sound", role: "group", "aria-label": "Speech" }, play, slider, time, save);
  let frame = 0;

  const ready = async () => (sound.track ||= await sound.load());
  const current = () => sound.track && speaker.track === sound.track;
  const duration = () => (sound.track ? sound.track.duration : sound.duration);
  const position = () => (current() ? speaker.position : 0);

  async function toggle() {
    speaker.unlock();
    const track = await ready();
    if (current() && speaker.playing) speaker.pause();
    else speaker.play(track, position() < duration() ? position() : 0);
  }

  async function seek(seconds) {
    const wasPlaying = current() && speaker.playing;
    const track = await ready();
    speaker.play(track, Math.max(0, Math.min(seconds, track.duration - 0.01)));
    if (!wasPlaying) speaker.pause();
    draw();
  }

  slider.addEventListener("pointerdown", (event) => {
    const box = slider.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width) * span());
  });
  slider.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
    if (step) seek(position() + step);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(duration());
    else if (event.key === " " || event.key === "Enter") toggle();
    else return;
    event.preventDefault();
  });

  // While sound arrives its end is not known: a few seconds are left free, so that bars do not shrink from the first piece on.
  const span = () => (sound.track && !sound.track.done ? Math.max(4, duration() * 1.15) : duration() || 1);

  function draw() {
    cancelAnimationFrame(frame);
    const playing = current() && speaker.playing;
    const place = position();
    drawBars(canvas, sound.track ? sound.track.peaks : sound.peaks, place / span(), duration() / span());
    time.textContent = place > 0 ? `${clock(place)} / ${clock(duration())}` : clock(duration());
    slider.setAttribute("aria-valuemax", duration().toFixed(1));
    slider.setAttribute("aria-valuenow", place.toFixed(1));
    slider.setAttribute("aria-valuetext", `${clock(place)} of ${clock(duration())}`);
    setIcon(play, playing ? "pause" : "play");
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    play.title = playing ? "Pause" : "Play";
    if (playing && element.isConnected) frame = requestAnimationFrame(draw);
  }

  const changed = () => {
    if (element.isConnected) draw();
    else if (seen) speaker.removeEventListener("change", changed);
  };
  let seen = false;
  speaker.addEventListener("change", changed);
  sound.track?.addEventListener("grow", () => { if (!(current() && speaker.playing)) draw(); });
  new ResizeObserver(() => { seen ||= element.isConnected; draw(); }).observe(canvas);
  element.redraw = draw;
  return element;
}
