// Text: what is sent, what is shown, what goes wrong.

import { answered, becomes, check, equal, lastAnswer, open, say, test, until } from "./harness.mjs";
import { start } from "./mock.mjs";

const last = (mock) => mock.requests.findLast(({ path }) => path === "/v1/chat/completions").body;

test("writes and is answered", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await becomes(() => page.locator("#model").innerText(), "omni-mock", "the model's name");
  await until(() => page.locator("#empty").isVisible(), "the empty conversation says what to do");
  await becomes(() => page.evaluate(() => document.activeElement.id), "message", "focus at the start");
  await page.keyboard.type("first line");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("second line");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".assistant");
  await answered(page);
  await becomes(() => lastAnswer(page), "You said: first line\nsecond line", "answer");
  equal(last(mock).messages, [{ role: "user", content: "first line\nsecond line" }], "messages");
  equal(last(mock).stream, true, "stream");
  await say(page, "again");
  equal(last(mock).messages.map((message) => message.role), ["user", "assistant", "user"], "roles of the second request");
  equal(last(mock).messages[1].content, "You said: first line\nsecond line", "the answer in the second request");
  await page.finish();
  await mock.close();
});

test("settings reach the request", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "plain");
  for (const name of ["temperature", "top_p", "top_k", "seed", "max_completion_tokens", "presence_penalty", "model"]) check(!(name in last(mock)), `${name} is sent though not set`);
  equal(last(mock).audio, { format: "pcm16" }, "audio");
  await page.click("#open-settings");
  for (const [name, value] of Object.entries({ temperature: "0.35", top_p: "0.9", top_k: "40", seed: "7", max_completion_tokens: "99", presence_penalty: "-0.5" })) await page.fill(`#s-${name}`, value);
  await page.fill("#s-system", "Be brief.");
  await page.selectOption("#s-voice", "ethan");
  await page.keyboard.press("Escape");
  await say(page, "set");
  const { temperature, top_p, top_k, seed, max_completion_tokens, presence_penalty, audio, messages, modalities } = last(mock);
  equal({ temperature, top_p, top_k, seed, max_completion_tokens, presence_penalty }, { temperature: 0.35, top_p: 0.9, top_k: 40, seed: 7, max_completion_tokens: 99, presence_penalty: -0.5 }, "sampling");
  equal(audio, { format: "pcm16", voice: "ethan" }, "audio with a voice");
  equal(modalities, ["text", "audio"], "modalities");
  equal(messages[0], { role: "system", content: "Be brief." }, "system prompt");
  await page.click("#speak");
  await say(page, "silent");
  equal([last(mock).modalities, last(mock).audio], [["text"], undefined], "without speech");
  await page.reload();
  await page.waitForSelector("html[data-ready]");
  await page.click("#open-settings");
  await becomes(() => page.inputValue("#s-temperature"), "0.35", "temperature after a reload");
  await becomes(() => page.inputValue("#s-system"), "Be brief.", "system prompt after a reload");
  await page.fill("#s-temperature", "9");
  await page.keyboard.press("Tab");
  await becomes(() => page.evaluate(async () => (await import("/page/settings.js")).settings.temperature), "0.35", "a temperature of 9 is not taken");
  await page.finish();
  await mock.close();
});

test("stops, and keeps what was said", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "long please", { wait: false });
  await until(async () => (await lastAnswer(page)).includes("word9"), "some words");
  await until(async () => await page.locator("#stop").isVisible() && await page.locator("#send").isHidden(), "stop stands in for send");
  await page.keyboard.press("Escape");
  await answered(page);
  await until(() => mock.gone, "the server sees the client go", 2000);
  await until(async () => (await page.locator(".assistant .note").innerText()) === "Stopped.", "says that it was stopped");
  const text = await lastAnswer(page);
  check(text.includes("word9") && !text.includes("word399"), "half an answer");
  await say(page, "go on");
  equal(last(mock).messages[1].content.trim(), text.trim(), "what was said goes along");
  await page.finish();
  await mock.close();
});

test("answers again, and lets a question be edited", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "one");
  await say(page, "two");
  await page.locator(".assistant").last().getByRole("button", { name: "Answer again" }).click();
  await until(() => mock.requests.length === 3, "a third request");
  await answered(page);
  equal(mock.requests[2].body.messages, mock.requests[1].body.messages, "the same question");
  await becomes(() => page.locator(".message").count(), 4, "messages");
  await page.locator(".user").first().getByRole("button", { name: "Edit" }).click();
  await becomes(() => page.locator("#ask-title").innerText(), "Ask again from here?", "asks before it forgets");
  await page.keyboard.press("Escape");
  await becomes(() => page.locator(".message").count(), 4, "messages after a no");
  await page.locator(".user").first().getByRole("button", { name: "Edit" }).click();
  await page.click("#ask-ok");
  await until(async () => (await page.inputValue("#message")) === "one", "the question is in the box");
  await say(page, "three");
  equal(last(mock).messages, [{ role: "user", content: "three" }], "messages after the edit");
  await page.finish();
  await mock.close();
});

test("errors in words", async () => {
  const mock = await start();
  const page = await open(mock.url, { expected: /status of 4\d\d|ERR_|Failed to load resource/ });
  const error = async (text, wanted) => {
    await say(page, text);
    const shown = await page.locator(".assistant:last-child .error p").innerText();
    check(wanted.test(shown), `"${text}": ${shown}`);
    await until(async () => wanted.test(await page.locator("#status").innerText()), `"${text}" is told to a screen reader`);
  };
  await error("fail", /^The value of temperature must lie between 0 and 2\.$/);
  await error("busy", /^All places are taken\. Try again in 3 seconds\.$/);
  await error("cut it off now", /^The connection was lost before the answer ended\.$/);
  await until(async () => (await lastAnswer(page)).startsWith("You said"), "what came before the cut is kept");
  await error("error in the middle", /^The device is out of memory\.$/);
  await page.context().setOffline(true);
  await error("anyone there?", /^You are offline\./);
  await page.context().setOffline(false);
  await say(page, "limit");
  await until(async () => /most tokens allowed/.test(await page.locator(".assistant:last-child .note").innerText()), "says that it was cut short");
  await mock.close();
  await error("hello?", /^The server cannot be reached\./);
  await page.finish();
});

test("asks for the key", async () => {
  const mock = await start({ keys: ["right"] });
  const page = await open(mock.url, { expected: /401/, waits: "#ask[open]" });
  await page.fill("#ask-input", "wrong");
  await page.keyboard.press("Enter");
  await until(async () => (await page.inputValue("#ask-input").catch(() => "")) === "wrong" && await page.locator("#ask").isVisible(), "asks again");
  await page.fill("#ask-input", "right");
  await page.keyboard.press("Enter");
  await until(async () => (await page.locator("#model").innerText()) === "omni-mock", "the key opens");
  await say(page, "hello");
  await becomes(() => lastAnswer(page), "You said: hello", "answer");
  mock.keys = ["another"];
  await say(page, "and now");
  await until(() => page.locator(".assistant:last-child .error").isVisible(), "the error stands");
  await page.waitForSelector("#ask[open]");
  await page.fill("#ask-input", "another");
  await page.keyboard.press("Enter");
  await until(async () => (await lastAnswer(page)) === "You said: and now", "answered with the new key");
  await becomes(() => page.locator(".message").count(), 4, "messages");
  check(!JSON.stringify(mock.requests).includes("another"), "the key is in no body");
  await page.finish();
  await mock.close();
});

test("markdown", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "markdown");
  const prose = page.locator(".assistant .prose").last();
  const count = (selector) => prose.locator(selector).count();
  equal([await count("h4"), await count("em"), await count("ol > li"), await count("ol > li > ul > li"), await count("blockquote"), await count("table td"), await count("pre code")],
    [1, 1, 2, 2, 1, 6, 1], "headings, emphasis, items, nested items, quotes, cells, code");
  equal(await prose.locator("a").getAttribute("href"), "https://example.org/a_(b)", "a link with parentheses");
  check(/noopener/.test(await prose.locator("a").getAttribute("rel")), "rel");
  check((await prose.innerText()).includes("Snake_case_names"), "underscores within words stay");
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await prose.getByRole("button", { name: "Copy this code" }).click();
  await becomes(() => page.evaluate(() => navigator.clipboard.readText()), 'def greet(name):\n    return f"Hello, {name}!"', "copied code");
  await page.finish();
  await mock.close();
});

test("nothing of an answer runs", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "evil");
  await page.waitForTimeout(300);
  equal(await page.evaluate(() => window.hacked), undefined, "window.hacked");
  const prose = page.locator(".assistant .prose").last();
  equal(await prose.locator("img, script, iframe, svg:not(.icon), form, style, [onerror], [onload]").count(), 0, "elements that an answer must not make");
  for (const link of await prose.locator("a").all()) check(/^(https?|mailto):/.test(await link.getAttribute("href")), await link.getAttribute("href"));
  await until(async () => (await prose.innerText()).includes("<img src=x onerror="), "markup is shown as it was written");
  // Names come from files of others, titles from messages, both must be text as well.
  await page.locator("#files").setInputFiles({ name: "<img src=x onerror=hacked=1>.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await say(page, "<img src=x onerror=hacked=1>");
  equal(await page.evaluate(() => window.hacked), undefined, "window.hacked by a name");
  await until(() => page.locator(".medium .file").isVisible(), "a picture that cannot be shown is named");
  await page.finish();
  await mock.close();
});

test("long and hostile Markdown takes linear time", async () => {
  const mock = await start();
  const page = await open(mock.url);
  const pieces = ["*a ", "[", "[](", "> ", "- ", "` `` ", "**a*", "***", "![a", "<http://a", "_a", "\\", "- a\n", "~~a", "* * ", "http://", "|a", "  - a\n", "> a\n", "1. a\n\n"];
  const slow = await page.evaluate(async (list) => {
    const { showMarkdown } = await import("/page/markdown.js");
    const time = (text) => {
      const start = performance.now();
      showMarkdown(document.createElement("div"), text);
      return performance.now() - start;
    };
    return list.map((piece) => [piece, time(piece.repeat(Math.round(200000 / piece.length)))]).filter(([, ms]) => ms > 4000);
  }, pieces);
  equal(slow, [], "200,000 characters of these took longer than 4 s");
  await page.finish();
  await mock.close();
});

test("thoughts are folded away", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "think");
  const thinking = page.locator(".assistant .thinking");
  check(await thinking.isVisible() && !(await thinking.locator(".prose").isVisible()), "folded");
  await thinking.locator("summary").click();
  equal(await thinking.locator(".prose").innerText(), "First I consider the question.", "thoughts");
  await page.finish();
  await mock.close();
});
