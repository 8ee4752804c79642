// The page as `omni serve` serves it, with the small models: what they say is noise, so answers are compared with those that the same
// request gets without a page.

import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { FILES, ROOT, answered, becomes, check, drop, equal, open, say, test, until } from "./harness.mjs";

const OMNI = process.env.OMNI || `${ROOT}build/omni`;

/** Starts a server on a free port; resolves when it listens. */
async function serve(...flags) {
  const child = spawn(OMNI, ["serve", "--port", "0", "--threads", "2", ...flags], { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] });
  let log = "", ended = false;
  child.stderr.on("data", (piece) => { log += piece; });
  const exit = new Promise((resolve) => child.on("exit", (code) => { ended = true; resolve(code); }));
  process.on("exit", () => child.kill("SIGKILL"));
  await until(() => ended || /listening on (\S+)/.test(log), "the server listens", 30000);
  check(!ended, `omni serve: ${log}`);
  return {
    url: `${/listening on (\S+)/.exec(log)[1]}/`,
    log: () => log,
    stop: async () => {
      child.kill("SIGTERM");
      equal(await exit, 0, "exit status of the server");
    },
  };
}

/** Settings, as if they had been chosen before: short answers, the likeliest tokens. */
const settle = (values) => `localStorage.setItem("omni.settings", JSON.stringify(${JSON.stringify({ temperature: "0", seed: "7", max_completion_tokens: "12", ...values })}))`;

/** The messages of the conversation at hand, as they are kept, sounds as base64. */
const kept = (page) => page.evaluate(async () => {
  const store = await import("/page/store.js");
  const messages = await store.messagesOf(location.hash.slice(1));
  for (const message of messages) {
    if (!message.speech) continue;
    const bytes = new Uint8Array(await (await store.media(message.speech.media)).blob.arrayBuffer());
    message.sound = btoa(Array.from(bytes.subarray(44), (byte) => String.fromCharCode(byte)).join(""));
  }
  return messages;
});

/** What the server answers to `body` without the page: {text, sound}. */
async function direct(url, body) {
  const response = await fetch(`${url}v1/chat/completions`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  check(response.ok, `status ${response.status}`);
  let text = "";
  const sound = [];
  for (const line of (await response.text()).split("\n")) {
    if (!line.startsWith("data: {")) continue;
    const delta = JSON.parse(line.slice(6)).choices[0]?.delta || {};
    text += delta.content || "";
    if (delta.audio?.data) sound.push(Buffer.from(delta.audio.data, "base64"));
  }
  return { text, sound: Buffer.concat(sound).toString("base64") };
}

/** The bodies that a page sends. */
function bodies(page) {
  const list = [];
  page.on("request", (request) => { if (request.url().endsWith("/v1/chat/completions")) list.push(JSON.parse(request.postData())); });
  return list;
}

test("real: the page's files and their policy", async () => {
  const server = await serve("--model", "models/tiny");
  const types = { html: "text/html; charset=utf-8", css: "text/css; charset=utf-8", js: "text/javascript; charset=utf-8" };
  for (const name of readdirSync(`${ROOT}src/server/page`)) {
    const response = await fetch(`${server.url}${name === "index.html" ? "" : `page/${name}`}`);
    equal([response.status, response.headers.get("content-type")], [200, types[name.split(".").pop()]], name);
    const policy = Object.fromEntries(response.headers.get("content-security-policy").split(";").map((part) => part.trim().split(/\s+(.*)/)));
    equal([policy["default-src"], policy["script-src"], policy["style-src"], policy["connect-src"], policy["frame-ancestors"], policy["base-uri"]], ["'none'", "'self'", "'self'", "'self'", "'none'", "'none'"], "policy");
    check(!/unsafe|http|\*/.test(Object.values(policy).join(" ")), "nothing unsafe, no other host");
    equal(response.headers.get("x-content-type-options"), "nosniff", "nosniff");
  }
  for (const path of ["page/", "page/nothing.js", "page/..%2fserver.c", "page/../server.c"]) equal((await fetch(server.url + path)).status, 404, path);
  await server.stop();
});

test("real: text and media in, text and speech out, kept", async () => {
  const server = await serve("--model", "models/tiny");
  const page = await open(server.url, { prepare: settle({}) });
  const sent = bodies(page);
  await say(page, "Hello there", { wait: false });
  await answered(page, 40000);
  const [, answer] = await kept(page);
  equal([answer.state, answer.error], ["done", ""], "state");
  const wanted = await direct(server.url, sent[0]);
  check(wanted.text.length > 0 && wanted.sound.length > 1000, "the server answers with text and speech");
  equal(answer.text, wanted.text, "text");
  check(answer.sound === wanted.sound, "speech, byte for byte");
  check(await page.evaluate(async () => (await import("/page/speaker.js")).speaker.track.length > 0), "it plays");
  await page.keyboard.press("Escape");
  await page.click("#speak");
  await drop(page, FILES.picture, FILES.sound, FILES.video);
  await say(page, "What are these?", { wait: false });
  await answered(page, 40000);
  const last = (await kept(page)).at(-1);
  equal([last.state, last.error], ["done", ""], "state with media");
  equal(last.text, (await direct(server.url, sent[1])).text, "text with media");
  const box = await page.locator("#talk").boundingBox();
  await page.mouse.move(box.x + 20, box.y + 20);
  await page.mouse.down();
  await until(async () => /0:01/.test(await page.locator("#recording-time").innerText()), "it hears");
  await page.mouse.up();
  await until(() => page.locator(".assistant").count().then((count) => count === 3), "asked by voice");
  await answered(page, 40000);
  await becomes(async () => (await kept(page)).at(-1).state, "done", "state after speaking");
  await page.reload();
  await page.waitForSelector("html[data-ready]");
  await becomes(() => page.locator(".message").count(), 6, "messages after a reload");
  await until(() => page.locator(".user img").evaluate((img) => img.naturalWidth === 320), "the picture after a reload");
  await page.finish();
  await server.stop();
});

test("real: stop frees the place", async () => {
  const server = await serve("--model", "models/tiny", "--parallel", "1");
  const page = await open(server.url, { prepare: settle({ max_completion_tokens: "3000", speak: false }) });
  await say(page, "Go on for long", { wait: false });
  await until(() => page.locator(".assistant .prose").last().innerText().then((text) => text.length > 20), "some text");
  await page.keyboard.press("Escape");
  await answered(page);
  const start = Date.now();
  await direct(server.url, { stream: true, max_completion_tokens: 2, messages: [{ role: "user", content: "x" }] });
  check(Date.now() - start < 3000, `another answer had to wait ${Date.now() - start} ms for the only place`);
  await page.finish();
  await server.stop();
});

test("real: keys, and a server that goes away", async () => {
  const server = await serve("--model", "models/tiny", "--api-key", "sesame");
  const page = await open(server.url, { expected: /401|ERR_CONNECTION|ERR_INCOMPLETE/, waits: "#ask[open]", prepare: `if (!localStorage.getItem("omni.settings")) ${settle({ speak: false })}` });
  const refused = page.waitForResponse((response) => response.status() === 401 && response.request().headers().authorization === "Bearer wrong");
  await page.fill("#ask-input", "wrong");
  await page.keyboard.press("Enter");
  await refused;
  await page.waitForSelector("#ask[open]");
  await page.fill("#ask-input", "sesame");
  await page.keyboard.press("Enter");
  await until(async () => (await page.locator("#model").innerText()) !== "", "the key opens");
  await say(page, "Hello");
  await becomes(async () => (await kept(page)).at(-1).state, "done", "state");
  await server.stop();
  await say(page, "Are you there?");
  await until(async () => /^The server cannot be reached\./.test(await page.locator(".assistant:last-child .error p").innerText()), "says that the server is gone");
  check(!server.log().includes("sesame"), "the key is not in the log");
  await page.finish();
});

/** A microphone that hears a voice when `voice(true)` was called in the page. */
const microphone = `{
  let gain;
  window.voice = (on) => gain.gain.setTargetAtTime(on ? 0.5 : 0, gain.context.currentTime, 0.005);
  navigator.mediaDevices.getUserMedia = async () => {
    const context = new AudioContext(), tone = new OscillatorNode(context, { type: "sawtooth", frequency: 120 }), out = context.createMediaStreamDestination();
    gain = new GainNode(context, { gain: 0 });
    tone.connect(gain).connect(out);
    tone.start();
    return out.stream;
  };
}`;

test("real: hands-free, interrupted by voice", async () => {
  const server = await serve("--model", "models/tiny");
  const page = await open(server.url, { prepare: `${settle({})}; ${microphone}` });
  const state = () => page.locator("#recording-text").innerText();
  const speaker = () => page.evaluate(async () => {
    const { speaker } = await import("/page/speaker.js");
    return { playing: speaker.playing, position: speaker.position };
  });
  await page.click("#handsfree");
  await until(async () => (await state()) === "Listening", "it listens");
  const say = async () => {
    await page.waitForTimeout(1000);
    await page.evaluate(() => window.voice(true));
    await page.waitForTimeout(1500);
    await page.evaluate(() => window.voice(false));
    await until(async () => (await state()) === "Speaking", "the answer is spoken", 40000);
  };
  await say();
  await until(async () => (await speaker()).position > 1, "a second of it", 20000);
  await page.evaluate(() => window.voice(true));
  await until(async () => !(await speaker()).playing, "the voice stops the answer");
  await until(async () => (await kept(page)).some(({ role, state: how }) => role === "assistant" && how === "stopped"), "the answer is kept as it was heard");
  await page.waitForTimeout(1000);
  await page.evaluate(() => window.voice(false));
  await until(async () => (await state()) === "Speaking", "the second answer", 40000);
  await page.keyboard.press("Escape");
  await until(() => page.locator(".assistant[aria-busy=true]").count().then((count) => count === 0), "answers have ended");
  const messages = await kept(page);
  equal(messages.map(({ role }) => role), ["user", "assistant", "user", "assistant"], "who spoke");
  const [asked, first] = messages;
  check(asked.parts[0].spoken, "what was said is kept as sound");
  check(first.speech.duration > 0.9 && first.speech.duration < 15, `${first.speech.duration} s of the first answer were heard`);
  await page.finish();
  await server.stop();
});

test("real: a trained voice", async () => {
  const server = await serve("--model", "models/omni-tiny");
  const page = await open(server.url, { prepare: settle({ voice: "ethan", max_completion_tokens: "8" }) });
  const sent = bodies(page);
  await say(page, "Say something", { wait: false });
  await answered(page, 40000);
  equal(sent[0].audio, { format: "pcm16", voice: "ethan" }, "the voice asked for");
  const [, answer] = await kept(page);
  equal([answer.state, answer.error], ["done", ""], "state");
  check(answer.speech.duration > 0.2 && Math.max(...answer.speech.peaks) > 0.02, "there is sound in it");
  await page.finish();
  await server.stop();
});
