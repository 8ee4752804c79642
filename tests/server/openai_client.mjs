// omni serve through OpenAI's own JavaScript client. usage: OMNI_CLIENTS=FOLDER node openai_client.mjs OMNI (the folder: scripts/node-clients-env.sh)
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createReadStream } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const OpenAI = createRequire(process.env.OMNI_CLIENTS + "/package.json")("openai");
const root = fileURLToPath(new URL("../..", import.meta.url));
const say = { model: "x", messages: [{ role: "user", content: "What is this?" }], max_completion_tokens: 6, seed: 5 };
const weather = { name: "weather", description: "of a town", parameters: {
  type: "object", properties: { days: { type: "integer", minimum: 1, maximum: 3 }, wet: { type: "boolean" } }, required: ["days", "wet"], additionalProperties: false } };
let server, client, log = "";

function clientOf(more) {
  return new OpenAI({ baseURL: client?.baseURL, apiKey: "k", maxRetries: 0, ...more });
}

before(async () => {
  server = spawn(process.argv[2] ?? root + "/build/omni", ["serve", "-m", root + "/models/tiny", "--port", "0", "--api-key", "k", "--parallel", "4", "--max-body", "100000"],
    { stdio: ["ignore", "ignore", "pipe"] });
  const port = await new Promise((found, failed) => {
    server.on("exit", () => failed(new Error("the server did not start: " + log)));
    server.stderr.on("data", (piece) => {
      log += piece;
      const m = log.match(/listening on http:\/\/.+:(\d+)/);
      if (m) found(m[1]);
    });
  });
  client = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: "k", maxRetries: 0 });
});

after(async () => {
  const ended = new Promise((done) => server.on("exit", done));
  server.kill("SIGTERM");
  assert.equal(await ended, 0, log);
});

test("models", async () => {
  const ids = [];
  for await (const m of client.models.list()) ids.push(m.id);
  assert.deepEqual(ids, ["qwen3-omni-f16"]);
});

test("chat, whole and streamed", async () => {
  const whole = await client.chat.completions.create({ ...say, logprobs: true, top_logprobs: 2 });
  assert.equal(whole.choices[0].finish_reason, "length");
  assert.equal(whole.choices[0].logprobs.content.length, 6);
  assert.equal(whole.usage.completion_tokens, 6);
  let text = "", usage = null;
  for await (const c of await client.chat.completions.create({ ...say, stream: true, stream_options: { include_usage: true } })) {
    text += c.choices[0]?.delta.content ?? "";
    usage = c.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, 6);
  const runner = client.chat.completions.stream({ ...say });
  let seen = "";
  runner.on("content", (delta) => (seen += delta));
  assert.equal((await runner.finalChatCompletion()).choices[0].message.content, text);
  assert.equal(seen, text);
});

test("an answer that is stopped", async () => {
  const stream = await client.chat.completions.create({ ...say, max_completion_tokens: 3000, stream: true });
  for await (const c of stream) {
    assert.equal(c.object, "chat.completion.chunk");
    break; // the client aborts the request
  }
  for (let i = 0; ; i++) {
    const text = await (await fetch(client.baseURL.replace("/v1", "/metrics"))).text();
    if (/^omni_engine_requests 0$/m.test(text)) break;
    assert.ok(i < 500, "the answer went on");
    await new Promise((r) => setTimeout(r, 20));
  }
});

test("speech", async () => {
  const r = await client.chat.completions.create({ ...say, modalities: ["text", "audio"], audio: { voice: "ethan", format: "wav" } });
  assert.equal(Buffer.from(r.choices[0].message.audio.data, "base64").subarray(0, 4).toString(), "RIFF");
  const sound = await client.audio.speech.create({ model: "x", voice: "ethan", input: "Hello", response_format: "flac" });
  assert.equal(Buffer.from(await sound.arrayBuffer()).subarray(0, 4).toString(), "fLaC");
});

test("transcriptions", async () => {
  const file = () => createReadStream(root + "/models/media/question.ogg");
  const { text, usage } = await client.audio.transcriptions.create({ model: "x", file: file() });
  assert.ok(text.length > 0 && usage.total_tokens === usage.input_tokens + usage.output_tokens);
  let streamed = "";
  for await (const e of await client.audio.transcriptions.create({ model: "x", file: file(), stream: true })) {
    if (e.type === "transcript.text.delta") streamed += e.delta;
    else assert.deepEqual([e.type, e.text], ["transcript.text.done", text]);
  }
  assert.equal(streamed, text);
  const verbose = await client.audio.transcriptions.create({ model: "x", file: file(), response_format: "verbose_json", timestamp_granularities: ["segment"],
    chunking_strategy: { type: "server_vad", silence_duration_ms: 500 } });
  assert.equal(verbose.segments.map((s) => s.text).join(" "), verbose.text);
  assert.equal(verbose.text, text);
  const english = await client.audio.translations.create({ model: "x", file: file() });
  assert.ok(english.text.length > 0);
  await assert.rejects(client.audio.transcriptions.create({ model: "x", file: await OpenAI.toFile(Buffer.from("no sound"), "a.wav") }),
    (e) => e instanceof OpenAI.BadRequestError && e.param === "file");
});

test("tools", async () => {
  const tools = [{ type: "function", function: { ...weather, strict: true } }];
  const r = await client.chat.completions.create({ ...say, max_completion_tokens: 200, tools, tool_choice: { type: "function", function: { name: "weather" } } });
  const call = r.choices[0].message.tool_calls[0];
  assert.equal(r.choices[0].finish_reason, "tool_calls");
  assert.equal(call.function.name, "weather");
  const given = JSON.parse(call.function.arguments);
  assert.deepEqual(Object.keys(given).sort(), ["days", "wet"]);
  assert.ok([1, 2, 3].includes(given.days) && typeof given.wet === "boolean");
  const next = await client.chat.completions.create({ ...say, tools, messages: [...say.messages, r.choices[0].message, { role: "tool", tool_call_id: call.id, content: "rain" }] });
  assert.ok(next.usage.prompt_tokens > r.usage.prompt_tokens);
});

test("a schema", async () => {
  const r = await client.chat.completions.parse({ ...say, max_completion_tokens: 200,
    response_format: { type: "json_schema", json_schema: { name: "weather", strict: true, schema: weather.parameters } } });
  const given = JSON.parse(r.choices[0].message.content);
  assert.ok([1, 2, 3].includes(given.days) && typeof given.wet === "boolean");
});

test("responses", async () => {
  const ask = { model: "x", input: "What is this?", max_output_tokens: 6, seed: 5 };
  const whole = await client.responses.create(ask);
  assert.equal(whole.status, "incomplete");
  assert.ok(whole.output_text.length > 0);
  const kinds = [];
  let text = "", last;
  for await (const e of await client.responses.create({ ...ask, stream: true })) {
    kinds.push(e.type);
    if (e.type === "response.output_text.delta") text += e.delta;
    last = e;
  }
  assert.equal(kinds[0], "response.created");
  assert.equal(last.type, "response.incomplete");
  assert.equal(text, whole.output_text);
  assert.equal(last.response.output[0].content[0].text, text);
});

test("completions", async () => {
  const r = await client.completions.create({ model: "x", prompt: ["Hi", "Ho"], max_tokens: 4, seed: 5 });
  assert.equal(r.choices.length, 2);
  let text = "";
  for await (const c of await client.completions.create({ model: "x", prompt: "Hi", max_tokens: 4, seed: 5, stream: true })) text += c.choices[0].text;
  assert.equal(text, r.choices[0].text);
});

test("errors by their class", async () => {
  const is = (kind, status, fields = {}) => (e) => {
    assert.ok(e instanceof kind, `${e.constructor.name}: ${e.message}`);
    assert.equal(e.status, status);
    for (const [k, v] of Object.entries(fields)) assert.equal(e[k], v);
    return true;
  };
  const ask = (more, by = client) => by.chat.completions.create({ ...say, ...more });
  await assert.rejects(ask({ temperature: -1 }), is(OpenAI.BadRequestError, 400, { param: "temperature", type: "invalid_request_error" }));
  await assert.rejects(ask({ messages: [] }), is(OpenAI.BadRequestError, 400, { param: "messages" }));
  await assert.rejects(ask({}, clientOf({ apiKey: "other" })), is(OpenAI.AuthenticationError, 401, { code: "invalid_api_key" }));
  await assert.rejects(client.get("/nothing"), is(OpenAI.NotFoundError, 404));
  await assert.rejects(client.embeddings.create({ model: "x", input: "Hi" }), is(OpenAI.InternalServerError, 501));
  await assert.rejects(ask({ messages: [{ role: "user", content: "word ".repeat(40000) }] }), is(OpenAI.APIError, 413));
  await assert.rejects(ask({}, clientOf({ baseURL: "http://127.0.0.1:1/v1" })), (e) => e instanceof OpenAI.APIConnectionError);
});
