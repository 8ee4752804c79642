// Pictures, sounds, videos and the microphone going in, speech coming out.

import { FILES, TONE, answered, becomes, check, drop, equal, open, say, test, until } from "./harness.mjs";
import { start } from "./mock.mjs";

const chats = (mock) => mock.requests.filter(({ path }) => path === "/v1/chat/completions").map(({ body }) => body);
const uri = ({ type, bytes }) => `data:${type};base64,${bytes.toString("base64")}`;

test("a picture, a sound and a video dropped", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await drop(page, FILES.picture, FILES.sound, FILES.video);
  await becomes(() => page.locator("#attachments .name").allInnerTexts(), ["picture.jpg", "question.ogg", "video.webm"], "attached");
  await until(() => page.locator("#drop").isHidden(), "the sign of dropping is gone");
  await say(page, "What are these?");
  const [body] = chats(mock);
  equal(body.messages[0].content.map((part) => part.type), ["image_url", "input_audio", "video_url", "text"], "parts");
  check(body.messages[0].content[0].image_url.url === uri(FILES.picture), "the picture's bytes");
  equal(body.messages[0].content[1].input_audio.format, "ogg", "the sound's format");
  check(body.messages[0].content[1].input_audio.data === FILES.sound.bytes.toString("base64"), "the sound's bytes");
  check(body.messages[0].content[2].video_url.url === uri(FILES.video), "the video's bytes");
  const shown = page.locator(".message.user");
  await until(() => shown.locator("img").evaluate((img) => img.naturalWidth === 320), "the picture is shown");
  await until(() => shown.locator("video").evaluate((video) => video.videoWidth === 160 && video.duration > 1.5), "the video can be played");
  await until(() => shown.locator("audio").evaluate((audio) => audio.duration > 0.5), "the sound can be played");
  await page.finish();
  await mock.close();
});

test("pasted, chosen, taken away, refused", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await page.evaluate((base64) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], "pasted.jpg", { type: "image/jpeg" }));
    document.getElementById("message").dispatchEvent(new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: data }));
  }, FILES.picture.bytes.toString("base64"));
  await page.locator("#files").setInputFiles([{ name: "clip.mkv", mimeType: "", buffer: Buffer.from("x") }, { name: "voice.flac", mimeType: "audio/flac", buffer: Buffer.from("y") }]);
  await becomes(() => page.locator("#attachments .name").allInnerTexts(), ["pasted.jpg", "clip.mkv", "voice.flac"], "attached");
  await page.getByRole("button", { name: "Remove clip.mkv" }).click();
  await becomes(() => page.evaluate(() => document.activeElement.id), "message", "focus after removing");
  await page.locator("#files").setInputFiles({ name: "notes.pdf", mimeType: "application/pdf", buffer: Buffer.from("z") });
  await becomes(() => page.locator("#notice").innerText(), "notes.pdf is not a picture, a sound or a video.", "a file of another kind");
  await page.click("#send");
  await answered(page);
  const content = chats(mock)[0].messages[0].content;
  equal(content.map((part) => part.type), ["image_url", "input_audio"], "parts");
  equal(content[1].input_audio, { data: Buffer.from("y").toString("base64"), format: "flac" }, "flac");
  await becomes(() => page.locator("#title").innerText(), "pasted.jpg", "a title of a message without text");
  await page.finish();
  await mock.close();
});

/** Notes when each piece of sound is to begin, and how long it is. */
function noteSounds() {
  window.sounds = [];
  const begin = AudioBufferSourceNode.prototype.start;
  AudioBufferSourceNode.prototype.start = function (at, ...rest) {
    if (this.context instanceof AudioContext) window.sounds.push({ at, duration: this.buffer.duration, now: this.context.currentTime });
    return begin.call(this, at, ...rest);
  };
}

const speaker = (page, what) => page.evaluate(async (code) => {
  const { speaker } = await import("/page/speaker.js");
  return { playing: speaker.playing, position: speaker.position, length: speaker.track?.length }[code];
}, what);

test("speech plays as it comes, and again", async () => {
  const mock = await start();
  const page = await open(mock.url, { prepare: noteSounds });
  await say(page, "one two three four", { wait: false });
  await until(() => speaker(page, "playing"), "playing before the end");
  await answered(page);
  // "You said: one two three four" are six words of 6000 samples.
  equal(await speaker(page, "length"), 36000, "samples");
  const sounds = await page.evaluate(() => window.sounds);
  check(sounds.length >= 6, `${sounds.length} pieces`);
  for (let i = 1; i < sounds.length; i++) {
    const gap = sounds[i].at - (sounds[i - 1].at + sounds[i - 1].duration);
    check(gap > -1e-6, `piece ${i} begins ${gap} s before the one before it has ended`);
    check(gap < 1e-3 || sounds[i].now > sounds[i].at - 0.13, `piece ${i} leaves a gap of ${gap} s`);
  }
  const group = page.getByRole("group", { name: "Speech" });
  await until(async () => (await speaker(page, "position")) > 0.3, "it goes on");
  const drawn = await group.locator("canvas").evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Set();
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) colours.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
    return colours.size;
  });
  check(drawn >= 2, "the waveform shows what was played and what was not");
  await until(async () => !(await speaker(page, "playing")), "it ends");
  await group.getByRole("button", { name: "Play" }).click();
  await until(() => speaker(page, "playing"), "plays again");
  await group.getByRole("button", { name: "Pause" }).click();
  const place = await speaker(page, "position");
  await page.waitForTimeout(300);
  equal(await speaker(page, "position"), place, "a pause holds");
  const slider = group.getByRole("slider");
  await slider.focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  check(Math.abs((await speaker(page, "position")) - 1) < 0.05, "one second further");
  equal(await slider.getAttribute("aria-valuetext"), "0:01 of 0:01", "the slider's value in words");
  const [download] = await Promise.all([page.waitForEvent("download"), group.getByRole("button", { name: /Save/ }).click()]);
  const { readFile } = await import("node:fs/promises");
  const wav = await readFile(await download.path());
  equal([wav.length, wav.readUInt32LE(24), wav.readUInt16LE(22), wav.readUInt16LE(34)], [44 + 72000, 24000, 1, 16], "size, rate, channels and bits of the WAV file");
  // The loudest sample of the stand-in's first word, computed here: the pieces were cut in the middle of samples.
  const first = new Int16Array(6000).map((_, i) => 32767 * Math.sin((Math.PI * i) / 6000) * 0.35 * Math.sin((2 * Math.PI * 150 * i) / 24000 + 2 * Math.sin(i / 37)));
  for (let i = 0; i < 6000; i++) check(Math.abs(wav.readInt16LE(44 + 2 * i) - first[i]) <= 1, `sample ${i}: ${wav.readInt16LE(44 + 2 * i)}, not ${first[i]}`);
  await page.finish();
  await mock.close();
});

test("speech stops with the answer, and when another question is asked", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await say(page, "long", { wait: false });
  await until(() => speaker(page, "playing"), "playing");
  await page.click("#stop");
  await answered(page);
  equal(await speaker(page, "playing"), false, "playing after stop");
  await becomes(() => page.evaluate(() => document.activeElement.id), "message", "focus after stop");
  await page.finish();
  await mock.close();
});

test("reads an answer aloud that came without speech", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await page.click("#speak");
  await say(page, "quiet");
  await becomes(() => page.getByRole("group", { name: "Speech" }).count(), 0, "no speech");
  await page.getByRole("button", { name: "Read aloud" }).click();
  await until(() => speaker(page, "playing"), "playing");
  equal(mock.requests.at(-1).body.input, "You said: quiet", "what is read");
  await becomes(() => page.getByRole("group", { name: "Speech" }).count(), 1, "its controls");
  await page.finish();
  await mock.close();
});

test("a model that does not speak", async () => {
  const mock = await start({ speaks: false });
  const page = await open(mock.url);
  await until(() => page.locator("#speak").isHidden(), "no button for speech");
  await say(page, "hello");
  equal(chats(mock)[0].modalities, ["text"], "modalities");
  await page.finish();
  await mock.close();
});

/** How strong a tone of `frequency` is among all of the samples, 0 to 1 (Goertzel's algorithm over windows of 50 ms, the best of them). */
export function toneShare(samples, rate, frequency) {
  const size = Math.round(rate / 20);
  let best = 0;
  for (let from = 0; from + size <= samples.length; from += size) {
    let re = 0, im = 0, energy = 0;
    for (let i = 0; i < size; i++) {
      const x = samples[from + i];
      re += x * Math.cos((2 * Math.PI * frequency * i) / rate);
      im += x * Math.sin((2 * Math.PI * frequency * i) / rate);
      energy += x * x;
    }
    if (energy > size * 1e4) best = Math.max(best, (2 * (re * re + im * im)) / (size * energy));
  }
  return best;
}

function checkSpoken(part) {
  equal([part.type, part.input_audio.format], ["input_audio", "wav"], "the part");
  const wav = Buffer.from(part.input_audio.data, "base64");
  equal([wav.toString("latin1", 0, 4), wav.readUInt32LE(24), wav.readUInt16LE(22), wav.readUInt16LE(34), wav.readUInt32LE(40)], ["RIFF", 16000, 1, 16, wav.length - 44], "RIFF, rate, channels, bits, size");
  const samples = new Int16Array((wav.length - 44) / 2).map((_, i) => wav.readInt16LE(44 + 2 * i));
  const seconds = samples.length / 16000;
  check(seconds > 0.8 && seconds < 4, `${seconds} s were heard`);
  const [right, wrong] = [toneShare(samples, 16000, TONE), toneShare(samples, 16000, TONE * 1.5)];
  check(right > 0.5 && right > 3 * wrong, `the microphone's tone of ${TONE} Hz is ${right.toFixed(2)} of it, one of ${TONE * 1.5} Hz ${wrong.toFixed(2)}`);
}

test("push to talk: held, pressed shortly, thrown away", async () => {
  const mock = await start();
  const page = await open(mock.url);
  const box = await page.locator("#talk").boundingBox();
  await page.mouse.move(box.x + 20, box.y + 20);
  await page.mouse.down();
  await until(async () => /0:0[12]/.test(await page.locator("#recording-time").innerText()), "it hears");
  await until(() => page.locator("#recording").isVisible(), "says that it listens");
  await page.mouse.up();
  await page.waitForSelector(".assistant");
  await answered(page);
  checkSpoken(chats(mock)[0].messages[0].content[0]);
  await becomes(() => page.locator("#title").innerText(), "Spoken message", "title");

  await page.keyboard.press("Alt+m");
  await until(async () => /0:01/.test(await page.locator("#recording-time").innerText()), "it hears, hands free");
  await page.keyboard.press("Escape");
  await until(() => page.locator("#recording").isHidden(), "no longer listens");
  await page.waitForTimeout(300);
  equal(chats(mock).length, 1, "requests after it was thrown away");

  await page.fill("#message", "and this text");
  await page.focus("#talk");
  await page.keyboard.press("Space");
  await until(async () => /0:01/.test(await page.locator("#recording-time").innerText()), "it hears after a short press");
  await page.keyboard.press("Space");
  await until(() => chats(mock).length === 2, "it is sent");
  await answered(page);
  const content = chats(mock)[1].messages.at(-1).content;
  checkSpoken(content[0]);
  equal(content[1], { type: "text", text: "and this text" }, "the text goes with it");
  await page.finish();
  await mock.close();
});

test("no microphone is an error in words", async () => {
  const mock = await start();
  const page = await open(mock.url, { prepare: () => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("denied", "NotAllowedError"); }; } });
  await page.click("#talk");
  await until(async () => /does not let this page use the microphone/.test(await page.locator("#notice").innerText()), "the reason");
  await until(() => page.locator("#recording").isHidden(), "does not listen");
  await page.finish();
  await mock.close();
});
