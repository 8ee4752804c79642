// Talking without hands, over the stand-in's Realtime interface.

import { TONE, axe, becomes, check, equal, open, say, test, until } from "./harness.mjs";
import { toneShare } from "./media.mjs";
import { start } from "./mock.mjs";

const speaker = (page) => page.evaluate(async () => {
  const { speaker } = await import("/page/speaker.js");
  return { playing: speaker.playing, position: speaker.position };
});

test("hands-free: spoken to, answered, interrupted", async () => {
  const mock = await start({ hears: true });
  const page = await open(mock.url);
  await say(page, "written before");
  await page.click("#handsfree");
  await until(() => mock.sessions.length === 1 && mock.sessions[0].events.length >= 3, "a session with its history");
  const [session] = mock.sessions;
  const [update, ...items] = session.events;
  equal([update.type, update.session.type, update.session.audio.input.turn_detection.type, update.session.audio.input.format], ["session.update", "realtime", "server_vad", { type: "audio/pcm", rate: 24000 }], "the session");
  equal(items.slice(0, 2).map(({ item }) => [item.role, item.content[0].type, item.content[0].text]), [["user", "input_text", "written before"], ["assistant", "output_text", "You said: written before"]], "turns before");
  await until(async () => (await page.locator("#recording-text").innerText()) === "Speaking", "the answer is spoken");
  equal(await axe(page), [], "axe");
  await until(async () => (await speaker(page)).position > 1, "a second of it");
  // The stand-in hears speech again.
  session.interrupt();
  await until(async () => session.truncated !== null, "the answer is cut", 2000);
  const after = await speaker(page);
  equal(after.playing, false, "plays on");
  check(session.cutAfter < 300, `the answer was cut ${session.cutAfter} ms after speech was told`);
  const heard = session.truncated.audio_end_ms;
  check(heard > 900 && heard < 3000, `${heard} ms are said to have been heard`);
  equal([session.truncated.item_id, session.truncated.content_index], ["item_1", 0], "what is cut");
  await until(async () => (await page.locator(".assistant").nth(1).locator(".prose").last().innerText()) === "These are the", "the text is what was heard");
  await until(() => page.locator(".user").count().then((count) => count === 3), "what was said second");
  await until(async () => (await page.locator("#recording-text").innerText()) === "Speaking", "the second answer");
  await page.keyboard.press("Escape");
  await until(() => page.locator("#recording").isHidden(), "Escape ends it");
  await until(() => page.locator(".assistant[aria-busy=true]").count().then((count) => count === 0), "answers have ended");
  // All of it is there after a reload: the voice that was heard, the answer as far as it was.
  await page.reload();
  await page.waitForSelector("html[data-ready]");
  await becomes(() => page.locator(".message").count(), 6, "messages");
  await becomes(() => page.locator(".assistant").nth(1).locator(".prose").last().innerText(), "These are the", "the text after a reload");
  const [said, answered] = await page.evaluate(async () => {
    const store = await import("/page/store.js");
    const messages = await store.messagesOf(location.hash.slice(1));
    const blob = (await store.media(messages[2].parts[0].media)).blob;
    return [Array.from(new Int16Array(await blob.slice(44).arrayBuffer())), { duration: messages[3].speech.duration, kept: ((await store.media(messages[3].speech.media)).blob.size - 44) / 48000, state: messages[3].state }];
  });
  check(said.length > 24000 * 0.9 && said.length < 24000 * 2, `${said.length / 24000} s of speech are kept`);
  const [right, wrong] = [toneShare(said, 24000, TONE), toneShare(said, 24000, TONE * 1.5)];
  check(right > 0.5 && right > 3 * wrong, `the microphone's tone is ${right.toFixed(2)} of it, another ${wrong.toFixed(2)}`);
  check(Math.abs(answered.duration - heard / 1000) < 0.01 && Math.abs(answered.kept - heard / 1000) < 0.01, `${answered.duration} s of the answer are kept of ${heard} ms heard`);
  equal(answered.state, "stopped", "its state");
  await page.finish();
  await mock.close();
});

test("hands-free: a lost connection, and servers without it", async () => {
  const without = await start();
  const plain = await open(without.url);
  check(await plain.locator("#handsfree").isHidden(), "not offered by a server that has none");
  await plain.finish();
  await without.close();
  const mock = await start({ hears: true, keys: ["key"] });
  const page = await open(mock.url, { prepare: () => localStorage.setItem("omni.settings", '{"key": "key"}') });
  await page.click("#handsfree");
  await until(() => mock.sessions.length === 1, "a session");
  equal(mock.sessions[0].protocols, "realtime, openai-insecure-api-key.key", "the key");
  await until(async () => /Speaking/.test(await page.locator("#recording-text").innerText()), "an answer");
  mock.sessions[0].close();
  await until(async () => (await page.locator("#notice").innerText()) === "The connection was lost.", "says so");
  await until(() => page.locator("#recording").isHidden(), "no longer listens");
  await until(async () => (await page.locator(".assistant .note").innerText()) === "Stopped.", "the answer has ended");
  await page.finish();
  await mock.close();
});
