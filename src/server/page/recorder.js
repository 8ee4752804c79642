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

export class Recorder {
  /** `onlevel(peak, seconds)` is called for every piece of about 40 ms. */
  constructor(onlevel) {
    this.onlevel = onlevel;
    this.pieces = [];
    this.length = 0;
  }

  get seconds() { return this.context ? this.length / this.context.sampleRate : 0; }

  /** Resolves when recording has begun. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error("Browsers give the microphone only to pages over https or from localhost.");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true } });
    } catch (error) {
      throw new Error(reason(error));
    }
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
    this.node = new AudioWorkletNode(this.context, "omni-recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    this.node.port.onmessage = ({ data }) => {
      this.pieces.push(data);
      this.length += data.length;
      this.onlevel(data.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0), this.seconds);
    };
    this.source = this.context.createMediaStreamSource(this.stream);
    this.source.connect(this.node);
    await this.context.resume();
  }

  /** Lets the microphone go. */
  close() {
    for (const track of this.stream?.getTracks() || []) track.stop();
    this.source?.disconnect();
    this.context?.close().catch(() => {});
  }

  /** Stops and resolves to a WAV blob, or to null if there was next to nothing to hear (under 0.2 s). */
  async stop() {
    const { seconds } = this;
    const rate = this.context.sampleRate;
    this.close();
    if (seconds < 0.2) return null;
    const offline = new OfflineAudioContext(1, Math.ceil(seconds * RATE), RATE);
    const buffer = offline.createBuffer(1, this.length, rate);
    let at = 0;
    for (const piece of this.pieces) {
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
