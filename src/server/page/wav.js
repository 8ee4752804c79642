// WAV files of 16-bit mono sound, and base64 pieces of the same.

/** Samples (Int16Array pieces) as a WAV blob. */
export function wavBlob(pieces, rate) {
  const bytes = pieces.reduce((sum, piece) => sum + piece.byteLength, 0);
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // one channel
  header.setUint32(24, rate, true);
  header.setUint32(28, rate * 2, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, bytes, true);
  return new Blob([header, ...pieces], { type: "audio/wav" });
}

/** The samples and rate of a WAV blob as wavBlob or the server writes it: {samples: Int16Array, rate}. Sizes of streamed files may be unset. */
export async function readWav(blob) {
  const view = new DataView(await blob.arrayBuffer());
  const word = (at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
  if (view.byteLength < 44 || word(0) !== "RIFF" || word(8) !== "WAVE") throw new Error("This is not a WAV file.");
  let rate = 24000;
  for (let at = 12; at + 8 <= view.byteLength;) {
    const size = view.getUint32(at + 4, true);
    if (word(at) === "fmt ") rate = view.getUint32(at + 12, true);
    if (word(at) === "data") {
      const bytes = Math.min(size, view.byteLength - at - 8) & ~1;
      return { rate, samples: new Int16Array(view.buffer.slice(at + 8, at + 8 + bytes)) };
    }
    at += 8 + size + (size & 1);
  }
  throw new Error("This WAV file has no sound in it.");
}

/** Joins base64 pieces of 16-bit samples, wherever they were cut. */
export class PcmDecoder {
  #odd = null;

  /** The whole samples that this piece completes. */
  decode(base64) {
    const binary = atob(base64);
    const before = this.#odd === null ? 0 : 1;
    const bytes = new Uint8Array(before + binary.length);
    if (before) bytes[0] = this.#odd;
    for (let i = 0; i < binary.length; i++) bytes[before + i] = binary.charCodeAt(i);
    const whole = bytes.length & ~1;
    this.#odd = bytes.length > whole ? bytes[whole] : null;
    return new Int16Array(bytes.buffer, 0, whole / 2);
  }
}

/** Float samples as 16-bit ones. */
export function toInt16(samples) {
  return Int16Array.from(samples, (value) => Math.round(Math.max(-1, Math.min(1, value)) * 32767));
}

/** 16-bit samples as base64. */
export function toBase64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(binary);
}

/** Lowers the rate of sound that comes in pieces. Each sample is the mean of the time that it stands for: enough for a voice. */
export class Downsampler {
  #step;
  #sum = 0;
  #weight = 0; // of the sample being made, in input samples

  constructor(from, to) {
    this.#step = from / to;
  }

  push(samples) {
    const out = [];
    for (const value of samples) {
      let left = 1;
      while (this.#weight + left >= this.#step) {
        const part = this.#step - this.#weight;
        out.push((this.#sum + value * part) / this.#step);
        left -= part;
        this.#sum = this.#weight = 0;
      }
      this.#sum += value * left;
      this.#weight += left;
    }
    return Float32Array.from(out);
  }
}
