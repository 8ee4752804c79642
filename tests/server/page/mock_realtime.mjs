// A stand-in for /v1/realtime: enough of WebSocket (RFC 6455) and of the Realtime interface for the page. It hears speech when the first
// loud sound comes, and ends it a second later; `interrupt()` lets it hear speech again.

import { createHash } from "node:crypto";

/** Takes over an upgraded connection. Calls `take(text)` for each text frame; returns {send(value), close()}. */
function accept(request, socket, take) {
  const key = createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\nSec-WebSocket-Protocol: realtime\r\n\r\n`);
  const frame = (opcode, payload) => {
    const head = payload.length < 126 ? Buffer.from([0x80 | opcode, payload.length]) : Buffer.alloc(payload.length < 65536 ? 4 : 10);
    if (payload.length >= 126) {
      head[0] = 0x80 | opcode;
      head[1] = payload.length < 65536 ? 126 : 127;
      if (payload.length < 65536) head.writeUInt16BE(payload.length, 2);
      else head.writeBigUInt64BE(BigInt(payload.length), 2);
    }
    if (socket.writable) socket.write(Buffer.concat([head, payload]));
  };
  let rest = Buffer.alloc(0);
  socket.on("error", () => {});
  socket.on("data", (piece) => {
    rest = Buffer.concat([rest, piece]);
    for (;;) {
      if (rest.length < 2) return;
      const short = rest[1] & 127;
      let at = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (rest.length < at + 4) return;
      const size = short === 126 ? rest.readUInt16BE(2) : short === 127 ? Number(rest.readBigUInt64BE(2)) : short;
      const mask = rest.subarray(at, at + 4);
      at += 4;
      if (rest.length < at + size) return;
      const payload = Buffer.from(rest.subarray(at, at + size)).map((byte, i) => byte ^ mask[i & 3]);
      const opcode = rest[0] & 15;
      rest = rest.subarray(at + size);
      if (opcode === 1) take(payload.toString());
      if (opcode === 8) {
        frame(8, payload);
        socket.end();
      }
    }
  });
  return { send: (value) => frame(1, Buffer.from(JSON.stringify(value))), close: () => socket.destroy() };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** `voice(word, i)` makes the speech of a word. */
export function realtime(request, socket, voice) {
  const session = { events: [], protocols: request.headers["sec-websocket-protocol"], heard: 0, loudAt: null, cancelled: false, answers: 0, truncated: null };
  const ms = () => Math.round(session.heard / 24);

  async function answer() {
    const id = `resp_${++session.answers}`, item = `item_${session.answers}`;
    session.cancelled = false;
    link.send({ type: "response.created", response: { id, status: "in_progress" } });
    const words = "These are the words of an answer that goes on for quite some time so that it can be interrupted".split(" ");
    for (const [i, word] of words.entries()) {
      if (session.cancelled) break;
      link.send({ type: "response.output_audio_transcript.delta", response_id: id, item_id: item, delta: `${word} ` });
      link.send({ type: "response.output_audio.delta", response_id: id, item_id: item, delta: voice(word, i).toString("base64") });
      await pause(60);
    }
    link.send({ type: "response.done", response: { id, status: session.cancelled ? "cancelled" : "completed" } });
  }

  async function hear() {
    session.heardAt = performance.now();
    link.send({ type: "input_audio_buffer.speech_started", audio_start_ms: Math.max(0, ms() - 100), item_id: `said_${session.answers}` });
    await pause(1000);
    link.send({ type: "input_audio_buffer.speech_stopped", audio_end_ms: ms(), item_id: `said_${session.answers}` });
    link.send({ type: "input_audio_buffer.committed", item_id: `said_${session.answers}` });
    await answer();
  }

  const link = accept(request, socket, (text) => {
    const event = JSON.parse(text);
    if (event.type === "input_audio_buffer.append") {
      const samples = Buffer.from(event.audio, "base64");
      session.heard += samples.length / 2;
      for (let i = 0; i + 1 < samples.length && session.loudAt === null; i += 2) {
        if (Math.abs(samples.readInt16LE(i)) > 2000) {
          session.loudAt = ms();
          hear();
        }
      }
      return;
    }
    session.events.push(event);
    if (event.type === "session.update") link.send({ type: "session.updated", session: event.session });
    if (event.type === "conversation.item.truncate") {
      session.truncated = event;
      session.cutAfter = performance.now() - session.heardAt;
      link.send({ type: "conversation.item.truncated", item_id: event.item_id, content_index: 0, audio_end_ms: event.audio_end_ms });
    }
    if (event.type === "conversation.item.retrieve") {
      link.send({ type: "conversation.item.retrieved", item: { id: event.item_id, type: "message", role: "assistant", content: [{ type: "output_audio", transcript: "These are the" }] } });
    }
  });
  session.interrupt = () => {
    session.cancelled = true;
    return hear();
  };
  session.close = link.close;
  link.send({ type: "session.created", session: { id: "sess_1", type: "realtime" } });
  return session;
}
