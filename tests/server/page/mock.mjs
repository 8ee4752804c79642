// A stand-in for `omni serve`: the page's files and as much of its interface as the page uses. No dependencies.
// Alone: node mock.mjs [PORT]. In tests: const mock = await start(); mock.url, mock.requests, mock.close().
//
// What the last message's text says decides the answer: "fail" a 400, "busy" a 429, "cut" a connection that breaks, "error" an error in
// the stream, "long" 400 words slowly, "limit" finish_reason length, "markdown" MARKDOWN, "evil" EVIL, "think" reasoning; else it says
// what it was given.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { basename, join } from "node:path";
import { realtime } from "./mock_realtime.mjs";

const PAGE = fileURLToPath(new URL("../../../src/server/page/", import.meta.url));
const TYPES = { html: "text/html; charset=utf-8", css: "text/css; charset=utf-8", js: "text/javascript; charset=utf-8" };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
  + "media-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export const MARKDOWN = `## A short walk through Markdown

Some *emphasis*, some **strength**, some \`code\` and a [link](https://example.org/a_(b)). Snake_case_names stay as they are.

1. First
2. Second
   - nested **item**
   - [x] done

> A quoted thought
> over two lines.

| Part | Rate | Note |
|:-----|-----:|------|
| encoder | 13 Hz | hears |
| talker | 12.5 Hz | speaks |

\`\`\`python
def greet(name):
    return f"Hello, {name}!"
\`\`\`

That is all.`;

export const EVIL = `<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script>

[click](javascript:window.hacked=1) [data](data:text/html,<script>1</script>) ![pixel](http://evil.invalid/pixel.png)

<a href="javascript:window.hacked=1">a</a> <javascript:window.hacked=1>

\`\`\`"><script>window.hacked=1</script>
</code></pre><script>window.hacked=1</script>
\`\`\`

| <b>x</b> | <svg onload="window.hacked=1"> |
|---|---|
| <iframe src="javascript:window.hacked=1"></iframe> | y |`;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Half a second a word of something like a voice, 16-bit at 24 kHz. */
function voice(word, index) {
  const samples = new Int16Array(6000);
  for (let i = 0; i < samples.length; i++) {
    const envelope = Math.sin((Math.PI * i) / samples.length) * (0.35 + 0.3 * Math.abs(Math.sin(index * 1.7)));
    samples[i] = 32767 * envelope * Math.sin((2 * Math.PI * (150 + 20 * Math.sin(index)) * i) / 24000 + 2 * Math.sin(i / 37));
  }
  return Buffer.from(samples.buffer);
}

function wav(samples, rate) {
  const header = Buffer.alloc(44);
  header.write("RIFF", 0);
  header.writeUInt32LE(36 + samples.length, 4);
  header.write("WAVEfmt ", 8);
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(1, 22);
  header.writeUInt32LE(rate, 24);
  header.writeUInt32LE(rate * 2, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write("data", 36);
  header.writeUInt32LE(samples.length, 40);
  return Buffer.concat([header, samples]);
}

/** What the last message asks for. */
function replyTo(body) {
  const content = body.messages.at(-1).content;
  const parts = typeof content === "string" ? [{ type: "text", text: content }] : content;
  const text = parts.filter((part) => part.type === "text").map((part) => part.text).join(" ");
  const media = parts.filter((part) => part.type !== "text").map((part) => part.type);
  let answer = media.length ? `I was given ${media.join(", ")}.` : `You said: ${text}`;
  if (/\bmarkdown\b/.test(text)) answer = MARKDOWN;
  if (/\bevil\b/.test(text)) answer = EVIL;
  if (/\blong\b/.test(text)) answer = Array.from({ length: 400 }, (_, i) => `word${i}`).join(" ");
  return { text, answer };
}

export async function start({ port = 0, keys = [], speaks = true, hears = false } = {}) {
  const state = { keys, speaks, requests: [], sessions: [] };

  async function chat(request, response, body) {
    const { text, answer } = replyTo(body);
    const error = (status, message, headers = {}) => {
      response.writeHead(status, { "Content-Type": "application/json", ...headers });
      response.end(JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code: null } }));
    };
    if (/\bfail\b/.test(text)) return error(400, "The value of temperature must lie between 0 and 2.");
    if (/\bbusy\b/.test(text)) return error(429, "All places are taken.", { "Retry-After": "3" });
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    let gone = false;
    request.socket.on("close", () => { gone = true; state.gone = true; });
    const base = { id: "chatcmpl-1", object: "chat.completion.chunk", created: 1, model: "omni-mock" };
    const write = (delta, finish = null) => response.write(`data: ${JSON.stringify({ ...base, choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`);
    write({ role: "assistant", content: "" });
    if (/\bthink\b/.test(text)) for (const word of "First I consider the question. ".split(/(?<= )/)) write({ reasoning_content: word });
    const loud = body.modalities?.includes("audio");
    let left = Buffer.alloc(0);
    const words = answer.split(/(?<=\s)/);
    for (const [i, word] of words.entries()) {
      if (gone) return undefined;
      write({ content: word });
      if (loud && i < 24) {
        // Cut in the middle of a sample, as a stream may be.
        left = Buffer.concat([left, voice(word, i)]);
        const some = left.subarray(0, left.length - (i % 2));
        left = left.subarray(some.length);
        write({ audio: { id: "audio-1", transcript: word, data: some.toString("base64") } });
      }
      if (i === 3 && /\bcut\b/.test(text)) {
        await pause(200);
        return response.destroy();
      }
      if (i === 3 && /\berror\b/.test(text)) {
        response.write(`data: ${JSON.stringify({ error: { message: "The device is out of memory.", type: "server_error", code: null } })}\n\n`);
        return response.end();
      }
      if (/\blong\b/.test(text) || i % 4 === 0) await pause(/\blong\b/.test(text) ? 40 : 5);
    }
    if (left.length) write({ audio: { id: "audio-1", data: left.toString("base64") } });
    write({}, /\blimit\b/.test(text) ? "length" : "stop");
    response.end("data: [DONE]\n\n");
    return undefined;
  }

  const sockets = new Set();
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://x").pathname;
    const json = (value, status = 200) => {
      response.writeHead(status, { "Content-Type": "application/json" });
      response.end(JSON.stringify(value));
    };
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    if (request.method === "GET" && (path === "/" || path.startsWith("/page/"))) {
      const name = path === "/" ? "index.html" : basename(path);
      try {
        const bytes = await readFile(join(PAGE, name));
        response.writeHead(200, { "Content-Type": TYPES[name.split(".").pop()], "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff" });
        response.end(bytes);
      } catch {
        json({ error: { message: "No such file." } }, 404);
      }
      return;
    }
    if (state.keys.length && !state.keys.includes((request.headers.authorization || "").replace("Bearer ", ""))) {
      json({ error: { message: "This server wants an API key.", type: "invalid_request_error", param: null, code: "invalid_api_key" } }, 401);
      return;
    }
    const body = request.method === "POST" ? JSON.parse(Buffer.concat(pieces).toString()) : null;
    if (body) state.requests.push({ path, body });
    if (path === "/v1/models") json({ object: "list", data: [{ id: "omni-mock", object: "model", created: 1, owned_by: "omni" }] });
    else if (path === "/props") json({ model: "omni-mock", total_slots: 4, output_modalities: state.speaks ? ["text", "audio"] : ["text"], realtime: hears });
    else if (path === "/v1/audio/voices") json({ voices: state.speaks ? [{ id: "chelsie", name: "chelsie" }, { id: "ethan", name: "ethan" }] : [] });
    else if (path === "/v1/audio/speech") {
      response.writeHead(200, { "Content-Type": "audio/wav" });
      response.end(wav(Buffer.concat([0, 1, 2, 3].map((i) => voice("", i))), 24000));
    } else if (path === "/v1/chat/completions") await chat(request, response, body);
    else json({ error: { message: "No such address." } }, 404);
  });
  server.on("upgrade", (request, socket) => {
    state.sessions.push(realtime(request, socket, voice));
    sockets.add(socket);
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  state.url = `http://127.0.0.1:${server.address().port}/`;
  state.close = () => new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
    for (const socket of sockets) socket.destroy();
  });
  return state;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const mock = await start({ port: Number(process.argv[2] || 8080) });
  console.log(mock.url);
}
