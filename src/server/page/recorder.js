// The microphone: records until it is stopped, and gives a WAV file of 16 kHz, which is what the model hears.

import { toInt16, wavBlob } from "./wav.js";

const RATE = 16000;
export const LONGEST = 300; // seconds

/** Why the microphone cannot be had, in words. */
function reason(error) {
  return {
    NotAllowedError: "The browser does not let this page use the microphone. Allow it in the address bar, then try again.",
    NotFoundError: "No microphone was found.",
    NotReadableError: "The microphone is in use by another program.",
  }[error.name] || `The microphone cannot be used: ${error.message}`;
}

/** What the microphone gives, in pieces of 2048 float samples at the rate of the machine's sound. */
export class Microphone {
  /** Resolves when it hears: `onpiece(samples)` is called from then on. */
  async start(onpiece) {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error("Browsers give the microphone only to pages over https or from localhost.");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true } });
    } catch (error) {
      throw new Error(reason(error));
    }
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "omni-recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => onpiece(data);
    this.source = this.context.createMediaStreamSource(this.stream);
    this.source.connect(node);
    await this.context.resume();
  }

  get rate() { return this.context?.sampleRate || 48000; }

  /** Lets the microphone go. */
  close() {
    for (const track of this.stream?.getTracks() || []) track.stop();
    this.source?.disconnect();
    this.context?.close().catch(() => {});
  }
}

export const loudest = (samples) => samples.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);

/** Records from start() to stop(). */
export class Recorder {
  #microphone = new Microphone();
  #pieces = [];
  #length = 0;

  /** `onlevel(peak, seconds)` is called for every piece of about 40 ms. */
  constructor(onlevel) {
    this.onlevel = onlevel;
  }

  get seconds() { return this.#length / this.#microphone.rate; }

  /** Resolves when recording has begun. */
  start() {
    return this.#microphone.start((samples) => {
      this.#pieces.push(samples);
      this.#length += samples.length;
      this.onlevel(loudest(samples), this.seconds);
    });
  }

  close() { this.#microphone.close(); }

  /** Stops and resolves to a WAV blob, or to null if there was next to nothing to hear (under 0.2 s). */
  async stop() {
    const { seconds } = this;
    this.close();
    if (seconds < 0.2) return null;
    const offline = new OfflineAudioContext(1, Math.ceil(seconds * RATE), RATE);
    const buffer = offline.createBuffer(1, this.#length, this.#microphone.rate);
    let at = 0;
    for (const piece of this.#pieces) {
      buffer.copyToChannel(piece, 0, at);
      at += piece.length;
    }
    const source = new AudioBufferSourceNode(offline, { buffer });
    source.connect(offline.destination);
    source.start();
    const rendered = await offline.startRendering();
    return wavBlob([toInt16(rendered.getChannelData(0))], RATE);
  }
}
