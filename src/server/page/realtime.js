// The WebSocket of /v1/realtime, with the names of OpenAI's Realtime interface: what is sent, and events to whoever listens.

import { settings } from "./settings.js";

export const RATE = 24000; // of the sound in both directions

export class Realtime {
  #socket = null;
  #closing = false;

  /** `on` has a function for each event wanted, by its type, and `closed(reason)`: "" if it was us. */
  constructor(on) {
    this.on = on;
  }

  /** Resolves when the session is open. `history`: [{role, text}] of the turns before. */
  open({ system, voice, history }) {
    const url = new URL("v1/realtime", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    if (settings.model) url.searchParams.set("model", settings.model);
    // A browser cannot set headers here; OpenAI's servers take the key as a subprotocol.
    this.#socket = new WebSocket(url, ["realtime", ...(settings.key ? [`openai-insecure-api-key.${settings.key}`] : [])]);
    return new Promise((resolve, reject) => {
      this.#socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "session.created") {
          this.#begin(system, voice, history);
          resolve();
        } else {
          this.on[event.type]?.(event);
        }
      };
      this.#socket.onclose = ({ reason }) => {
        reject(new Error(reason || "The server did not open the conversation by voice."));
        this.on.closed(this.#closing ? "" : reason || "The connection was lost.");
      };
    });
  }

  #begin(system, voice, history) {
    this.send("session.update", {
      session: {
        type: "realtime",
        output_modalities: ["audio"],
        ...(system.trim() ? { instructions: system } : {}),
        audio: {
          input: { format: { type: "audio/pcm", rate: RATE }, turn_detection: { type: "server_vad", create_response: true, interrupt_response: true } },
          output: { format: { type: "audio/pcm", rate: RATE }, ...(voice ? { voice } : {}) },
        },
      },
    });
    for (const { role, text } of history) {
      this.send("conversation.item.create", { item: { type: "message", role, content: [{ type: role === "user" ? "input_text" : "output_text", text }] } });
    }
  }

  send(type, fields = {}) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type, ...fields }));
  }

  close() {
    this.#closing = true;
    this.#socket?.close();
  }
}
