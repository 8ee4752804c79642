// Runs on the sound thread: hands what the microphone gives to the page, in pieces of 2048 samples.
class Recorder extends AudioWorkletProcessor {
  #piece = new Float32Array(2048);
  #filled = 0;

  process([input]) {
    const samples = input[0];
    if (!samples) return true;
    for (let at = 0; at < samples.length;) {
      const count = Math.min(samples.length - at, this.#piece.length - this.#filled);
      this.#piece.set(samples.subarray(at, at + count), this.#filled);
      at += count;
      this.#filled += count;
      if (this.#filled === this.#piece.length) {
        this.port.postMessage(this.#piece.slice());
        this.#filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("omni-recorder", Recorder);
