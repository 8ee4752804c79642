// Realtime sessions of omni serve through the classes of OpenAI's JavaScript client, which know wss alone.
// usage: OMNI_CLIENTS=FOLDER node openai_realtime.mjs OMNI (the folder: scripts/node-clients-env.sh)
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const require = createRequire(process.env.OMNI_CLIENTS + "/package.json");
const OpenAI = require("openai"), WebSocket = require("ws");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");
const { OpenAIRealtimeWebSocket } = require("openai/realtime/websocket");
const root = fileURLToPath(new URL("../..", import.meta.url));
const folder = mkdtempSync(tmpdir() + "/omni-realtime-");
const model = "x", rate = 24000, silence = Buffer.alloc(2 * rate);
let server, client, ca, log = "";

/** A voice at 120 Hz that comes and goes four times a second, for 1.5 s. */
function voice() {
  const out = Buffer.alloc(3 * rate);
  for (let i = 0; i < 1.5 * rate; i++) {
    let v = 0;
    for (let h = 1; h < 12; h++) v += Math.sin(2 * Math.PI * 120 * h * i / rate + h * h) / h;
    out.writeInt16LE(Math.trunc(6000 * v * (0.6 + 0.4 * Math.sin(8 * Math.PI * i / rate))), 2 * i);
  }
  return out;
}

before(async () => {
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
    "-keyout", folder + "/key.pem", "-out", folder + "/cert.pem"], { stdio: "ignore" });
  ca = readFileSync(folder + "/cert.pem");
  server = spawn(process.argv[2] ?? root + "/build/omni", ["serve", "-m", root + "/models/tiny", "--port", "0", "--api-key", "k", "--parallel", "4",
    "--tls-cert", folder + "/cert.pem", "--tls-key", folder + "/key.pem"], { stdio: ["ignore", "ignore", "pipe"] });
  const port = await new Promise((found, failed) => {
    server.on("exit", () => failed(new Error("the server did not start: " + log)));
    server.stderr.on("data", (piece) => {
      log += piece;
      const m = log.match(/listening on https:\/\/.+:(\d+)/);
      if (m) found(m[1]);
    });
  });
  client = new OpenAI({ baseURL: `https://localhost:${port}/v1`, apiKey: "k", maxRetries: 0 });
  globalThis.WebSocket = class extends WebSocket { // as a browser that trusts the certificate has it
    constructor(url, protocols) { super(url, protocols, { ca }); }
  };
});

after(async () => {
  const ended = new Promise((done) => server.on("exit", done));
  server.kill("SIGTERM");
  assert.equal(await ended, 0, log);
  rmSync(folder, { recursive: true });
});

/** Events of a session in their order; until(type) takes all up to the first of a type. */
async function open(session) {
  const waiting = [], failures = [];
  let wake = () => {};
  session.on("event", (e) => { waiting.push(e); wake(); });
  session.on("error", (e) => { failures.push(e); wake(); });
  const until = async (type) => {
    const seen = [], late = Date.now() + 60000;
    for (;;) {
      while (waiting.length > 0) {
        seen.push(waiting.shift());
        if (seen.at(-1).type === type) return seen;
      }
      assert.deepEqual(failures, [], log);
      assert.ok(Date.now() < late, `no ${type} after ${seen.map((e) => e.type)}`);
      await new Promise((r) => { wake = r; setTimeout(r, 200); });
    }
  };
  await until("session.created");
  return { session, until, failures };
}

const text = (events, type) => events.filter((e) => e.type === type).map((e) => e.delta).join("");
const append = (session, sound) => session.send({ type: "input_audio_buffer.append", audio: sound.toString("base64") });
const kinds = { OpenAIRealtimeWS: () => new OpenAIRealtimeWS({ model, options: { ca } }, client),
  OpenAIRealtimeWebSocket: () => new OpenAIRealtimeWebSocket({ model, dangerouslyAllowBrowser: true }, client) };

for (const [name, connect] of Object.entries(kinds)) {
  test(`${name}: text`, async () => {
    const { session, until } = await open(connect());
    session.send({ type: "session.update", session: { type: "realtime", output_modalities: ["text"], max_output_tokens: 6, seed: 5 } });
    assert.deepEqual((await until("session.updated")).at(-1).session.output_modalities, ["text"]);
    session.send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text: "What is this?" }] } });
    session.send({ type: "response.create" });
    const events = await until("response.done");
    assert.ok(text(events, "response.output_text.delta").length > 0);
    assert.equal(events.at(-1).response.output[0].content[0].text, text(events, "response.output_text.delta"));
    session.close();
  });

  test(`${name}: a turn that the server finds, and an interruption`, async () => {
    const { session, until } = await open(connect());
    const { tokens } = await new Promise((done) => {
      const ask = require("node:https").request(client.baseURL.replace("/v1", "/tokenize"), { method: "POST", ca, headers: { "X-API-Key": "k" } }, (r) => {
        let body = "";
        r.on("data", (d) => (body += d)).on("end", () => done(JSON.parse(body)));
      });
      ask.end(JSON.stringify({ content: "<|im_end|>", parse_special: true }));
    });
    session.send({ type: "session.update", session: { type: "realtime", output_modalities: ["audio"], logit_bias: { [tokens[0]]: -100 },
      audio: { input: { turn_detection: { type: "server_vad" } }, output: { voice: "marin" } } } });
    await until("session.updated");
    append(session, Buffer.concat([silence, voice(), silence]));
    const turn = await until("response.output_audio.delta");
    for (const t of ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed", "response.created"])
      assert.ok(turn.some((e) => e.type === t), t);
    append(session, voice());
    await until("input_audio_buffer.speech_started");
    const rest = await until("response.done");
    assert.ok(!rest.some((e) => e.type === "response.output_audio.delta"));
    assert.equal(rest.at(-1).response.status_details.reason, "turn_detected");
    session.send({ type: "conversation.item.truncate", item_id: rest.at(-1).response.output[0].id, content_index: 0, audio_end_ms: 20 });
    await until("conversation.item.truncated");
    session.close();
  });

  test(`${name}: a function`, async () => {
    const { session, until } = await open(connect());
    session.send({ type: "session.update", session: { type: "realtime", output_modalities: ["text"], max_output_tokens: 300, tool_choice: "required", tools: [
      { type: "function", name: "weather", parameters: { type: "object", properties: { wet: { type: "boolean" } }, required: ["wet"], additionalProperties: false } }] } });
    session.send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text: "Will it rain?" }] } });
    session.send({ type: "response.create", response: { parallel_tool_calls: false } });
    const call = (await until("response.function_call_arguments.done")).at(-1);
    assert.equal(typeof JSON.parse(call.arguments).wet, "boolean");
    await until("response.done");
    session.send({ type: "conversation.item.create", item: { type: "function_call_output", call_id: call.call_id, output: "no" } });
    session.send({ type: "response.create", response: { tool_choice: "none", max_output_tokens: 6 } });
    assert.equal((await until("response.done")).at(-1).response.output[0].type, "message");
    session.close();
  });

  test(`${name}: what is wrong is an error of its own`, async () => {
    const { session, failures } = await open(connect());
    session.send({ type: "session.update", event_id: "mine", session: { type: "realtime", audio: { output: { voice: "nobody" } } } });
    for (let i = 0; i < 500 && failures.length === 0; i++) await new Promise((r) => setTimeout(r, 20));
    assert.ok(failures[0] instanceof OpenAI.OpenAIError, String(failures[0]));
    assert.equal(failures[0].error.param, "session.audio.output.voice");
    session.close();
  });
}
