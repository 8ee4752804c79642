// What the checks of the page share: the browser, a page that complains of anything unexpected, files, and a list of tests.

import { createRequire } from "node:module";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

// Packages lie outside the tree (scripts/page-check.sh puts them there).
const require = createRequire(join(process.env.OMNI_NODE_ENV, "package.json"));
const { chromium } = require("playwright-core");
const axeSource = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), "omni-page-"));
const make = (name, ...arguments_) => {
  execFileSync("ffmpeg", ["-v", "error", "-y", ...arguments_, join(scratch, name)]);
  return join(scratch, name);
};

/** Files to give the page: {path, name, type, bytes}. */
const file = (path, name, type) => ({ path, name, type, bytes: readFileSync(path) });
export const FILES = {
  picture: file(join(ROOT, "models/media/picture.jpg"), "picture.jpg", "image/jpeg"),
  sound: file(join(ROOT, "models/media/question.ogg"), "question.ogg", "audio/ogg"),
  video: file(make("video.webm", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=8:duration=2", "-c:v", "libvpx", "-b:v", "200k"), "video.webm", "video/webm"),
};

/** The microphone hears bursts of this tone: steady sound would be taken away as noise. */
export const TONE = 500;
const microphone = make("microphone.wav", "-f", "lavfi", "-i", `sine=frequency=${TONE}:sample_rate=48000:duration=20`, "-af", "volume='4*gt(mod(t,0.5),0.2)':eval=frame", "-c:a", "pcm_s16le");

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    `--use-file-for-fake-audio-capture=${microphone}`],
});

export async function end() {
  await browser.close();
  rmSync(scratch, { recursive: true, force: true });
}

export function check(holds, what) {
  if (!holds) throw new Error(what);
}

export function equal(got, wanted, what) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${what}: ${a?.slice(0, 300)}, not ${b?.slice(0, 300)}`);
}

/** Waits until `holds()` is true; fails with `what` after `ms`. */
export async function until(holds, what, ms = 15000) {
  for (const start = Date.now(); Date.now() - start < ms;) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  throw new Error(`not within ${ms} ms: ${what}`);
}

/** Waits until `value()` is `wanted`: what a page shows comes a frame, or a reading of its store, after what caused it. Fails with both after `ms`. */
export async function becomes(value, wanted, what, ms = 5000) {
  let got;
  for (const start = Date.now(); ;) {
    got = await value();
    if (JSON.stringify(got) === JSON.stringify(wanted) || Date.now() - start >= ms) break;
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  equal(got, wanted, what);
}

/**
 * A page of its own storage, open at `url`, ready (or when `waits` is there). `prepare`, a function or a text, runs before the page does. What it writes to the console as a warning or error, any exception and any request to
 * another host is a failure when finish() is called, but for those that match `expected`.
 */
export async function open(url, { options = {}, expected = null, prepare = null, waits = "html[data-ready]" } = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  const faults = [];
  page.setDefaultTimeout(15000);
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) faults.push(`console: ${message.text()}`); });
  page.on("pageerror", (error) => faults.push(`exception: ${error.message}`));
  page.on("request", (request) => { if (!/^(blob|data):/.test(request.url()) && !request.url().startsWith(url)) faults.push(`request: ${request.url()}`); });
  if (prepare) await page.addInitScript(typeof prepare === "string" ? { content: prepare } : prepare);
  await page.goto(url);
  await page.waitForSelector(waits);
  page.faults = faults;
  page.finish = async () => {
    await context.close();
    const bad = faults.filter((fault) => !expected?.test(fault));
    check(bad.length === 0, bad.join("\n"));
  };
  return page;
}

/** Writes a message and sends it; resolves when its answer has ended, unless `wait` is false. */
export async function say(page, text, { wait = true } = {}) {
  const before = await page.locator(".assistant").count();
  await page.fill("#message", text);
  await page.press("#message", "Enter");
  await page.waitForFunction((count) => document.querySelectorAll(".assistant").length > count, before);
  if (wait) await answered(page);
}

export const answered = (page, timeout = 15000) => page.waitForSelector(".assistant:last-child[aria-busy=false]", { timeout });
export const lastAnswer = (page) => page.locator(".assistant").last().locator(".prose").last().innerText();

/** Drops files as a user's file manager does. */
export async function drop(page, ...files) {
  const list = files.map(({ name, type, bytes }) => ({ name, type, base64: bytes.toString("base64") }));
  await page.evaluate((items) => {
    const data = new DataTransfer();
    for (const { name, type, base64 } of items) data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name, { type }));
    for (const kind of ["dragenter", "dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data }));
  }, list);
}

/** Serious and critical findings of axe-core, as text. */
export async function axe(page) {
  // Through the debugger, which the page's policy does not bind.
  await page.evaluate(axeSource);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return found.violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.target.join(" ")).slice(0, 4).join(", ")}`);
}

const tests = [];
export const test = (name, run) => tests.push({ name, run });

/** Runs one test; returns what went wrong, as text, or null. */
async function attempt(run) {
  let timer;
  try {
    await Promise.race([run(), new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("longer than 60 s")), 60000); })]);
    return null;
  } catch (error) {
    return (error.stack || String(error)).split("\n").slice(0, 12).join("\n      ");
  } finally {
    clearTimeout(timer);
    for (const context of browser.contexts()) await context.close().catch(() => {});
  }
}

/**
 * Runs the tests whose names contain one of `wanted` (all without). Prints "N passed, N failed" and returns whether all passed. Under CI, whose
 * machines may be busy, a second try counts, and is told.
 */
export async function runTests(wanted = []) {
  let passed = 0, failed = 0;
  for (const { name, run } of tests) {
    if (wanted.length && !wanted.some((word) => name.includes(word))) continue;
    const start = Date.now();
    let wrong = await attempt(run);
    if (wrong && process.env.CI) {
      console.log(`again ${name}: a first try failed\n      ${wrong}`);
      wrong = await attempt(run);
    }
    if (wrong) failed++;
    else passed++;
    console.log(wrong ? `FAIL  ${name}\n      ${wrong}` : `ok    ${name} (${Date.now() - start} ms)`);
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0;
}
