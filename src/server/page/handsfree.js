// Talking without hands: the microphone stays open, the server hears when speech begins and ends, and speech stops an answer.

import { endAnswer, hear, newAnswer } from "./answer.js";
import { textOf } from "./model.js";
import { Realtime, RATE } from "./realtime.js";
import { Microphone, loudest } from "./recorder.js";
import { settings } from "./settings.js";
import { speaker } from "./speaker.js";
import { Downsampler, PcmDecoder, toBase64, toInt16, wavBlob } from "./wav.js";
import * as store from "./store.js";

const KEPT = 120 * RATE; // samples of the microphone that are kept: what is said at once is seldom longer

export class HandsFree {
  #microphone = new Microphone();
  #heard = []; // {start, samples} of the microphone, the last of them
  #sent = 0; // samples
  #spoken = { from: 0, to: 0 }; // samples: the speech last found
  #answers = new Map(); // those that are being made, by the response's id: {id, answer, item, decoder, cut}
  #last = null; // the one of them last heard
  #writing = Promise.resolve(); // messages are kept one after the other

  /**
   * `page`: conversation, messages() so far, nextOrder(), add(message), update(message), state(text), level(peak), audible(),
   * ended(reason), complain(text)
   */
  constructor(page) {
    this.page = page;
    this.realtime = new Realtime({
      "input_audio_buffer.speech_started": (event) => this.#speechStarted(event),
      "input_audio_buffer.speech_stopped": (event) => this.#speechStopped(event),
      "input_audio_buffer.committed": () => this.#committed(),
      "conversation.item.input_audio_transcription.completed": () => {},
      "conversation.item.retrieved": (event) => this.#retrieved(event),
      "response.created": (event) => this.#created(event),
      "response.output_audio.delta": (event) => this.#sound(event),
      "response.output_audio_transcript.delta": (event) => this.#text(event),
      "response.output_text.delta": (event) => this.#text(event),
      "response.done": (event) => this.#done(event),
      error: (event) => page.complain(event.error?.message || "The server reports an error."),
      closed: (reason) => this.#closed(reason),
    });
  }

  /** Resolves when it listens; an error in words if it cannot. */
  async start() {
    const history = this.page.messages().map((message) => ({ role: message.role, text: message.role === "user" ? textOf(message) : message.text })).filter(({ text }) => text);
    let down = null;
    await this.#microphone.start((samples) => {
      this.page.level(loudest(samples));
      if (!this.open) return;
      down ||= new Downsampler(this.#microphone.rate, RATE);
      const piece = toInt16(down.push(samples));
      this.#heard.push({ start: this.#sent, samples: piece });
      this.#sent += piece.length;
      while (this.#heard[0].start < this.#sent - KEPT) this.#heard.shift();
      this.realtime.send("input_audio_buffer.append", { audio: toBase64(piece) });
    });
    try {
      await this.realtime.open({ system: this.page.conversation.system, voice: settings.voice, history });
    } catch (error) {
      this.#microphone.close();
      throw error;
    }
    this.open = true;
    this.page.state("Listening");
  }

  /** Ends it. What runs is stopped. */
  stop() {
    this.realtime.close();
  }

  async #closed(reason) {
    this.#microphone.close();
    const was = this.open;
    this.open = false;
    for (const [id, entry] of this.#answers) {
      this.#answers.delete(id);
      await this.#end(entry, "stopped");
    }
    if (was) this.page.ended(reason);
  }

  #speechStarted(event) {
    this.#spoken.from = Math.round((event.audio_start_ms / 1000) * RATE);
    this.page.state("You speak");
    const last = this.#last;
    if (!last || !speaker.playing || speaker.track !== last.answer.live) return;
    // What was not heard was not said.
    const heard = speaker.position;
    speaker.pause();
    last.cut = true;
    last.answer.live.cut(heard);
    if (!this.#answers.has(last.id)) this.#end(last, "stopped"); // all of it had come already
    this.realtime.send("conversation.item.truncate", { item_id: last.item, content_index: 0, audio_end_ms: Math.floor(heard * 1000) });
    this.realtime.send("conversation.item.retrieve", { item_id: last.item });
  }

  #speechStopped(event) {
    this.#spoken.to = Math.round((event.audio_end_ms / 1000) * RATE);
    this.page.state("Thinking");
  }

  /** What was said becomes a message. */
  #committed() {
    const { from, to } = this.#spoken;
    const pieces = this.#heard.filter(({ start, samples }) => start + samples.length > from && start < to)
      .map(({ start, samples }) => samples.subarray(Math.max(0, from - start), Math.max(0, to - start)));
    const message = { id: store.newId(), conversation: this.page.conversation.id, order: this.page.nextOrder(), role: "user", parts: [] };
    const media = store.putMedia(message.conversation, wavBlob(pieces, RATE), "Spoken");
    this.#writing = this.#writing.then(async () => {
      message.parts = [{ type: "audio", media: await media, name: "Spoken", mime: "audio/wav", spoken: true }];
      await store.putMessage(message);
      this.page.add(message);
    }).catch((error) => this.page.complain(error.message));
  }

  #created({ response }) {
    const entry = { id: response.id, answer: newAnswer(this.page.conversation.id, 0), item: null, decoder: new PcmDecoder(), cut: false };
    this.#answers.set(response.id, entry);
    this.#writing = this.#writing.then(() => {
      entry.answer.order = this.page.nextOrder();
      this.page.add(entry.answer);
    });
  }

  #sound({ response_id: id, item_id: item, delta }) {
    const entry = this.#answers.get(id);
    if (!entry || entry.cut) return;
    entry.item = item;
    this.#last = entry;
    hear(entry.answer, entry.decoder.decode(delta), this.page.audible);
    this.page.state("Speaking");
    this.page.update(entry.answer);
  }

  #text({ response_id: id, delta }) {
    const entry = this.#answers.get(id);
    if (!entry || entry.cut) return;
    entry.answer.text += delta;
    this.page.update(entry.answer);
  }

  #done({ response }) {
    const entry = this.#answers.get(response.id);
    if (!entry) return;
    this.#answers.delete(response.id);
    if (response.status === "failed") entry.answer.error = response.status_details?.error?.message || "The server gave up on this answer.";
    const state = response.status === "failed" ? "failed" : entry.cut || response.status === "cancelled" ? "stopped" : "done";
    if (response.status_details?.reason === "max_output_tokens") entry.answer.finish = "length";
    if (this.open) this.page.state("Listening");
    this.#end(entry, state);
  }

  #end(entry, state) {
    this.#writing = this.#writing.then(async () => {
      await endAnswer(entry.answer, state);
      this.page.update(entry.answer);
    });
    return this.#writing;
  }

  /** The text of an answer that was interrupted, as far as it was heard: the server knows. */
  #retrieved({ item }) {
    const last = this.#last;
    const part = item?.content?.[0];
    if (!last || last.item !== item?.id || typeof part?.transcript !== "string") return;
    last.answer.text = part.transcript;
    if (!this.#answers.has(last.id)) this.#end(last, "stopped");
  }
}
