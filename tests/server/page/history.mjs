// What is kept in the browser: conversations with their media, and what is done with them.

import { readFile } from "node:fs/promises";
import { FILES, answered, becomes, check, drop, equal, lastAnswer, open, say, test, until } from "./harness.mjs";
import { start } from "./mock.mjs";

const ready = (page) => page.waitForSelector("html[data-ready]");
const titles = (page) => page.locator("#conversations a").allInnerTexts();

test("a reload finds everything", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await drop(page, FILES.picture, FILES.sound, FILES.video);
  await say(page, "Keep this");
  await say(page, "and this");
  await page.reload();
  await ready(page);
  await becomes(() => page.locator("#title").innerText(), "Keep this", "title");
  await becomes(() => page.locator(".message").count(), 4, "messages");
  await becomes(() => lastAnswer(page), "You said: and this", "the last answer");
  await until(() => page.locator(".user img").evaluate((img) => img.naturalWidth === 320), "the picture");
  await until(() => page.locator(".user video").evaluate((video) => video.videoWidth === 160), "the video");
  await until(() => page.locator(".user audio").evaluate((audio) => audio.duration > 0.5), "the sound");
  await page.getByRole("group", { name: "Speech" }).last().getByRole("button", { name: "Play" }).click();
  await until(() => page.evaluate(async () => {
    const { speaker } = await import("/page/speaker.js");
    return speaker.playing && speaker.position > 0.1 && speaker.track.length === 24000;
  }), "kept speech plays, four words of it");
  await say(page, "third");
  const { messages } = mock.requests.at(-1).body;
  equal(messages.length, 5, "messages sent");
  check(messages[0].content[0].image_url.url.endsWith(FILES.picture.bytes.toString("base64")), "kept media go along");
  await page.finish();
  await mock.close();
});

test("several conversations: begun, switched, renamed, deleted", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "first talk");
  await page.keyboard.press("Alt+n");
  await until(() => page.locator("#empty").isVisible(), "an empty one");
  await say(page, "second talk");
  await becomes(() => titles(page), ["second talk", "first talk"], "titles, the latest first");
  await page.click("#conversations a:text('first talk')");
  await until(async () => (await page.locator(".message").count()) === 2 && (await lastAnswer(page)) === "You said: first talk", "the first one is shown");
  await page.getByRole("button", { name: "Rename first talk" }).click();
  await page.fill("#ask-input", "Renamed");
  await page.keyboard.press("Enter");
  await until(async () => (await titles(page)).includes("Renamed"), "the new name");
  await becomes(() => page.locator("#title").innerText(), "Renamed", "title");
  await page.reload();
  await ready(page);
  await becomes(() => page.locator("#title").innerText(), "Renamed", "title after a reload");
  await page.getByRole("button", { name: "Delete Renamed" }).click();
  await page.keyboard.press("Escape");
  await becomes(async () => (await titles(page)).length, 2, "conversations after a no");
  await page.getByRole("button", { name: "Delete Renamed" }).click();
  await page.click("#ask-ok");
  await until(async () => (await titles(page)).length === 1, "one is gone");
  await page.reload();
  await ready(page);
  await becomes(() => titles(page), ["second talk"], "titles after a reload");
  const left = await page.evaluate(() => new Promise((resolve) => {
    const asked = indexedDB.open("omni");
    asked.onsuccess = () => {
      const counts = {};
      const running = asked.result.transaction(["messages", "media"]);
      for (const name of ["messages", "media"]) running.objectStore(name).count().onsuccess = (event) => { counts[name] = event.target.result; };
      running.oncomplete = () => resolve(counts);
    };
  }));
  equal(left, { messages: 2, media: 1 }, "what is left in the store");
  await page.finish();
  await mock.close();
});

test("an answer goes on while another conversation is read", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await page.click("#speak");
  await say(page, "long one", { wait: false });
  await page.keyboard.press("Alt+n");
  await say(page, "short one");
  await page.click("#conversations a:text('long one')");
  await page.waitForSelector(".assistant");
  const before = (await lastAnswer(page)).length;
  await until(async () => (await lastAnswer(page)).length > before + 20, "it grows");
  await page.keyboard.press("Escape");
  await answered(page);
  await page.finish();
  await mock.close();
});

test("an answer that a closed page left is kept as far as it came", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await page.click("#speak");
  await say(page, "long", { wait: false });
  await until(async () => (await lastAnswer(page)).includes("word60"), "some words");
  await page.reload();
  await ready(page);
  await page.waitForSelector(".assistant[aria-busy=false]");
  await until(async () => (await lastAnswer(page)).includes("word20"), "words are there");
  await becomes(() => page.locator(".assistant .note").innerText(), "Stopped.", "note");
  await page.finish();
  await mock.close();
});

test("export as Markdown and JSON", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await drop(page, FILES.picture);
  await say(page, "Look at this");
  const exported = async (id) => {
    await page.click("#export summary");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(id)]);
    return [download.suggestedFilename(), await readFile(await download.path(), "utf8")];
  };
  const [markdownName, markdown] = await exported("#export-markdown");
  equal(markdownName, "look-at-this.md", "name");
  check(/# Look at this/.test(markdown) && /\[picture: picture\.jpg\]/.test(markdown) && /I was given image_url\./.test(markdown), markdown);
  const [jsonName, text] = await exported("#export-json");
  equal(jsonName, "look-at-this.json", "name");
  const { format, messages } = JSON.parse(text);
  equal(format, "omni-conversation-1", "format");
  equal(messages[0].content[0].data, `data:image/jpeg;base64,${FILES.picture.bytes.toString("base64")}`, "the picture");
  equal([messages[0].content[1].text, messages[1].content], ["Look at this", "I was given image_url."], "texts");
  check(messages[1].audio.startsWith("data:audio/wav;base64,UklGR"), "the speech");
  await page.finish();
  await mock.close();
});

test("without a store the page works, and says so", async () => {
  const mock = await start();
  const page = await open(mock.url, { prepare: () => { indexedDB.open = () => { throw new DOMException("no", "SecurityError"); }; } });
  await until(async () => /keep nothing/.test(await page.locator("#notice").innerText()), "says so");
  await drop(page, FILES.picture);
  await say(page, "hello");
  await becomes(() => lastAnswer(page), "I was given image_url.", "answer");
  await page.finish();
  await mock.close();
});
