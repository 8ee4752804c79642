// One answer being made: asks the server, takes in what streams, keeps it.

import { ApiError, chat } from "./api.js";
import { requestMessages } from "./model.js";
import { sampling, settings } from "./settings.js";
import { Track, speaker } from "./speaker.js";
import { PcmDecoder } from "./wav.js";
import { summary } from "./view.js";
import * as store from "./store.js";

const KEEP_EVERY = 1500; // milliseconds between writes of an answer that grows

/** An empty answer, running. */
export function newAnswer(conversation, order) {
  return {
    id: store.newId(), conversation, order, role: "assistant", state: "running", text: "", reasoning: "", calls: [], error: "", finish: "",
    speech: null,
  };
}

/** What is written of a message: not the sound that is still arriving. */
export const kept = (message) => Object.fromEntries(Object.entries(message).filter(([name]) => name !== "live"));

/**
 * Makes `answer` from the turns before it. Calls `changed()` whenever it grew. Resolves when it has ended, in whatever
 * way: answer.state says, from then on.
 * `speak`: with speech, which is played while it comes if `audible()`.
 */
export async function makeAnswer({ conversation, before, answer, signal, speak, changed, audible }) {
  const decoder = new PcmDecoder();
  let written = performance.now();
  let state = "done"; // told when all is written: until then no other question can be asked
  try {
    const body = {
      messages: await requestMessages(conversation.system, before),
      ...sampling(),
      ...(settings.model ? { model: settings.model } : {}),
      ...(speak ? { modalities: ["text", "audio"], audio: { format: "pcm16", ...(settings.voice ? { voice: settings.voice } : {}) } } : { modalities: ["text"] }),
    };
    let transcript = "";
    for await (const chunk of chat(body, signal)) {
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      const delta = choice.delta || {};
      if (delta.content) answer.text = (answer.fromTranscript ? "" : answer.text) + delta.content;
      if (delta.content) answer.fromTranscript = false;
      if (delta.reasoning_content) answer.reasoning += delta.reasoning_content;
      // Servers that say the text only with the sound.
      if (delta.audio?.transcript) {
        transcript += delta.audio.transcript;
        if (!answer.text || answer.fromTranscript) {
          answer.text = transcript;
          answer.fromTranscript = true;
        }
      }
      if (delta.audio?.data) hear(answer, decoder.decode(delta.audio.data), audible);
      for (const call of delta.tool_calls || []) {
        const index = call.index ?? 0;
        let known = answer.calls.find((other) => other.index === index);
        if (!known) answer.calls.push(known = { index, name: "", arguments: "" });
        known.name += call.function?.name || "";
        known.arguments += call.function?.arguments || "";
      }
      if (choice.finish_reason) answer.finish = choice.finish_reason;
      changed();
      if (performance.now() - written > KEEP_EVERY) {
        written = performance.now();
        store.putMessage(kept(answer)).catch(() => {});
      }
    }
  } catch (error) {
    state = error.name === "AbortError" || signal.aborted ? "stopped" : "failed";
    if (state === "failed") {
      answer.error = error instanceof ApiError ? error.message : `The answer could not be read: ${error.message}`;
      answer.keyMissing = error.status === 401;
    }
  }
  delete answer.fromTranscript;
  await endAnswer(answer, state);
}

/** Keeps an answer, with its speech, and then sets its state. May be done again, when it was cut short later. */
export async function endAnswer(answer, state) {
  answer.live?.finish();
  try {
    if (answer.live) answer.speech = summary(answer.live, await store.putMedia(answer.conversation, answer.live.blob(), "answer.wav", answer.speech?.media));
    await store.putMessage({ ...kept(answer), state });
    answer.state = state;
  } catch (error) {
    answer.error = error.message;
    answer.state = "failed";
  }
}

/** Adds to an answer's speech, which begins to play if it is `audible()`. */
export function hear(answer, samples, audible) {
  if (!answer.live) {
    answer.live = new Track(24000);
    if (audible()) speaker.play(answer.live);
  }
  answer.live.append(samples);
}
