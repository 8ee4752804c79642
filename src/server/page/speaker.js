// Speech that plays while it arrives. A Track is the sound, the Speaker plays one of them at a time.

import { wavBlob } from "./wav.js";

const PEAK_SECONDS = 0.04;

/** Sound that grows. Events: "grow". `done` is set when nothing more will come. */
export class Track extends EventTarget {
  constructor(rate = 24000) {
    super();
    this.rate = rate;
    this.pieces = [];
    this.length = 0; // samples
    this.peaks = []; // the loudest sample, 0 to 1, of every PEAK_SECONDS
    this.done = false;
  }

  get duration() { return this.length / this.rate; }

  append(samples) {
    if (!samples.length) return;
    const span = Math.round(PEAK_SECONDS * this.rate);
    for (let i = 0; i < samples.length; i++) {
      const bin = Math.floor((this.length + i) / span);
      const value = Math.abs(samples[i]) / 32768;
      if (!(this.peaks[bin] >= value)) this.peaks[bin] = value;
    }
    this.pieces.push({ samples, start: this.length });
    this.length += samples.length;
    this.dispatchEvent(new Event("grow"));
  }

  /** Forgets what comes after this many seconds. */
  cut(seconds) {
    this.length = Math.min(this.length, Math.round(seconds * this.rate));
    this.pieces = this.pieces.filter(({ start }) => start < this.length).map(({ start, samples }) => ({ start, samples: samples.subarray(0, this.length - start) }));
    this.peaks.length = Math.ceil(this.length / Math.round(PEAK_SECONDS * this.rate));
    this.finish();
  }

  finish() {
    this.done = true;
    this.dispatchEvent(new Event("grow"));
  }

  blob() { return wavBlob(this.pieces.map((piece) => piece.samples), this.rate); }
}

const LEAD = 0.12; // seconds between asking for sound and hearing it, at the start and after a gap: pieces come unevenly

/** Plays one track at a time. Events: "change" (starts, stops, another track), and while playing nothing else: ask `position`. */
export class Speaker extends EventTarget {
  #context = null;
  #segments = []; // what was scheduled: {at (context time), offset, duration (seconds of the track), node}
  #next = 0; // context time at which the next segment may begin
  #piece = 0; // the next piece of the track to schedule
  #place = 0; // where the track stood when it was stopped, in seconds
  #grow = () => this.#schedule();

  track = null;
  playing = false;

  /** To be called in a click or a key press, as browsers want it. */
  unlock() {
    this.#context ||= new AudioContext();
    if (this.#context.state === "suspended") this.#context.resume().catch(() => {});
  }

  /** Plays a track from a place in seconds. */
  play(track, from = 0) {
    this.#halt();
    this.unlock();
    this.track?.removeEventListener("grow", this.#grow);
    this.track = track;
    this.playing = true;
    this.#place = from;
    this.#piece = Math.max(0, track.pieces.findIndex((piece) => (piece.start + piece.samples.length) / track.rate > from));
    if (from >= track.duration) this.#piece = track.pieces.length;
    this.#next = 0;
    track.addEventListener("grow", this.#grow);
    this.#schedule();
    this.dispatchEvent(new Event("change"));
  }

  /** Stops where it is; play(track, position) goes on. */
  pause() {
    if (!this.playing) return;
    this.#place = this.position;
    this.#halt();
    this.dispatchEvent(new Event("change"));
  }

  /** Seconds of the track that were heard. */
  get position() {
    if (!this.playing || !this.#context) return this.#place;
    const now = this.#context.currentTime;
    let place = this.#place;
    for (const segment of this.#segments) {
      if (segment.at > now) break;
      place = segment.offset + Math.min(segment.duration, now - segment.at);
    }
    return place;
  }

  #schedule() {
    const track = this.track;
    while (this.playing && this.#piece < track.pieces.length) {
      const { samples, start } = track.pieces[this.#piece++];
      const skip = Math.max(0, Math.min(samples.length - 1, Math.round(this.#place * track.rate) - start));
      const first = this.#segments.length === 0 ? skip : 0;
      const buffer = this.#context.createBuffer(1, samples.length - first, track.rate);
      const channel = buffer.getChannelData(0);
      for (let i = first; i < samples.length; i++) channel[i - first] = samples[i] / 32768;
      const node = new AudioBufferSourceNode(this.#context, { buffer });
      node.connect(this.#context.destination);
      const now = this.#context.currentTime;
      const at = this.#next > now ? this.#next : now + LEAD;
      node.start(at);
      node.onended = () => this.#ended();
      this.#segments.push({ at, offset: (start + first) / track.rate, duration: buffer.duration, node });
      this.#next = at + buffer.duration;
    }
    this.#ended();
  }

  /** Whether all has been heard. */
  #ended() {
    if (!this.playing || !this.track.done || this.#piece < this.track.pieces.length) return;
    if (this.#segments.length && this.#context.currentTime < this.#next - 0.02) return;
    this.#halt();
    this.#place = 0;
    this.dispatchEvent(new Event("change"));
  }

  #halt() {
    this.playing = false;
    for (const { node } of this.#segments) {
      node.onended = null;
      try { node.stop(); } catch { /* has not begun */ }
      node.disconnect();
    }
    this.#segments = [];
  }
}

export const speaker = new Speaker();
