// How the page is used and seen: keyboard alone, narrow screens, light and dark, screen readers, less motion.

import { join } from "node:path";
import { FILES, answered, axe, becomes, check, drop, equal, lastAnswer, open, say, test, until } from "./harness.mjs";
import { start } from "./mock.mjs";

let folder = null;

/** Screenshots go into this folder. */
export function picturesTo(path) {
  folder = path;
}

async function picture(page, name) {
  if (!folder) return;
  await page.waitForTimeout(400);
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

const focused = (page) => page.evaluate(() => {
  const element = document.activeElement;
  return element.getAttribute("aria-label") || element.id || element.innerText?.trim() || element.tagName;
});

test("keyboard alone", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await page.keyboard.type("by keys");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".assistant");
  await answered(page);
  // Every control is reached by Tab, in an order, and shows that it is.
  const seen = [];
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press("Tab");
    const name = await focused(page);
    if (name === "BODY" || (seen.length && name === seen[0])) break;
    seen.push(name);
    const marked = await page.evaluate(() => {
      const style = getComputedStyle(document.activeElement);
      return style.outlineStyle !== "none" || document.activeElement.id === "message" || document.activeElement.tagName === "BODY";
    });
    check(marked, `${name} does not show that it has the focus`);
  }
  for (const wanted of ["Attach pictures, sounds or videos", "speak", "Push to talk", "Send", "Skip to the message box", "new", "by keys", "Rename by keys", "Delete by keys", "open-settings",
    "Export this conversation", "Messages", "Copy", "Edit and ask again", "Pause|Play", "Place in the speech", "Copy the answer", "Answer again"]) {
    check(seen.some((name) => new RegExp(`^(${wanted})$`).test(name)), `${wanted} is not reached by Tab; reached: ${seen.join(" | ")}`);
  }
  // Settings: opened, changed and closed; the focus goes back.
  await page.focus("#open-settings");
  await page.keyboard.press("Enter");
  await until(() => page.locator("#settings").isVisible(), "settings are open");
  await page.keyboard.press("Escape");
  await becomes(() => focused(page), "open-settings", "focus after the settings");
  // Rename and delete.
  await page.focus("button[aria-label='Rename by keys']");
  await page.keyboard.press("Enter");
  await page.keyboard.type("other");
  await page.keyboard.press("Enter");
  await until(async () => (await page.locator("#title").innerText()) === "other", "renamed");
  // "/" leads to the message box, Escape stops speech.
  await page.focus("#scroll");
  await page.keyboard.press("/");
  await becomes(() => focused(page), "message", "focus after /");
  await becomes(() => page.inputValue("#message"), "", "the slash itself is not written");
  await page.keyboard.press("Escape");
  equal(await page.evaluate(async () => (await import("/page/speaker.js")).speaker.playing), false, "Escape stops speech");
  await page.focus("#export summary");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  await becomes(() => focused(page), "export-markdown", "the menu's first item");
  await page.keyboard.press("Escape");
  await becomes(() => focused(page), "Export this conversation", "focus after the menu");
  await page.finish();
  await mock.close();
});

test("screen readers are told what happens", async () => {
  const mock = await start();
  const page = await open(mock.url, { prepare: () => {
    window.told = [];
    document.addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
      const text = document.getElementById("status").textContent;
      if (text) window.told.push(text);
    }).observe(document.getElementById("status"), { childList: true, characterData: true, subtree: true }));
  } });
  await page.click("#speak");
  await say(page, "tell me");
  await until(() => page.evaluate(() => window.told.includes("The answer is being made") && window.told.includes("You said: tell me")), "the answer, once it has ended");
  await page.click("#speak");
  await say(page, "tell me aloud");
  await until(() => page.evaluate(() => window.told.includes("The answer has ended")), "only its end where it is spoken");
  await until(async () => !(await page.evaluate(() => window.told.includes("You said: tell me aloud"))), "not read over the speech");
  await becomes(() => page.locator("#messages h2").allInnerTexts(), ["You", "Answer", "You", "Answer"], "headings");
  await becomes(async () => [await page.locator("main").count(), await page.locator("nav").count(), await page.locator("h1").count(), await page.getAttribute("html", "lang")], [1, 1, 1, "en"], "landmarks");
  await page.finish();
  await mock.close();
});

for (const scheme of ["light", "dark"]) {
  test(`${scheme}: nothing that axe finds serious, wide and narrow`, async () => {
    const mock = await start();
    const page = await open(mock.url, { options: { colorScheme: scheme } });
    const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).every((value) => value < 80));
    equal(dark, scheme === "dark", "a dark background");
    equal(await axe(page), [], "empty");
    await picture(page, `begin-${scheme}`);
    await drop(page, FILES.picture, FILES.sound, FILES.video);
    equal(await axe(page), [], "attached");
    await say(page, "think about these");
    await say(page, "Please show me some markdown");
    await page.evaluate(() => document.querySelector(".thinking").setAttribute("open", ""));
    equal(await axe(page), [], "conversation");
    await picture(page, `conversation-${scheme}`);
    await page.evaluate(() => { document.getElementById("scroll").scrollTop = 0; });
    await picture(page, `media-${scheme}`);
    await page.click("#open-settings");
    equal(await axe(page), [], "settings");
    await picture(page, `settings-${scheme}`);
    await page.keyboard.press("Escape");
    await page.setViewportSize({ width: 360, height: 720 });
    await page.evaluate(() => { const scroll = document.getElementById("scroll"); scroll.scrollTop = scroll.scrollHeight; });
    equal(await axe(page), [], "narrow");
    await picture(page, `phone-${scheme}`);
    await page.click("#open-sidebar");
    equal(await axe(page), [], "drawer");
    await picture(page, `phone-list-${scheme}`);
    await page.keyboard.press("Escape");
    await say(page, "long", { wait: false });
    equal(await axe(page), [], "answering");
    await page.keyboard.press("Escape");
    await page.finish();
    await mock.close();
  });
}

test("the appearance can be chosen", async () => {
  const mock = await start();
  const page = await open(mock.url, { options: { colorScheme: "light" } });
  const dark = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).every((value) => value < 80));
  await page.click("#open-settings");
  await page.selectOption("#s-theme", "dark");
  await becomes(() => dark(), true, "dark on a light system");
  await page.reload();
  await page.waitForSelector("html[data-ready]");
  await becomes(() => dark(), true, "dark after a reload");
  await page.emulateMedia({ colorScheme: "dark" });
  await page.click("#open-settings");
  await page.selectOption("#s-theme", "light");
  await becomes(() => dark(), false, "light on a dark system");
  await page.selectOption("#s-theme", "");
  await becomes(() => dark(), true, "as the system");
  await page.finish();
  await mock.close();
});

test("phone width", async () => {
  const mock = await start();
  const page = await open(mock.url, { options: { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true } });
  const fits = async (what) => {
    const wide = await page.evaluate(() => [...document.querySelectorAll("body *")].filter((element) => {
      if (element.closest("#sidebar:not(.drawer *)") || element.closest(".hidden, .skip, .table > *, pre > *, .sprite") || !element.checkVisibility()) return false;
      const box = element.getBoundingClientRect();
      return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1);
    }).map((element) => `${element.tagName}.${element.className}#${element.id}`));
    equal(wide, [], `${what}: wider than the screen`);
    await becomes(() => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, `${what}: no scrolling sideways`);
  };
  await fits("empty");
  await drop(page, FILES.picture, FILES.sound, FILES.video);
  await fits("attached");
  await say(page, "a_word_without_end_".repeat(20));
  await say(page, "markdown");
  await fits("conversation");
  await becomes(() => page.locator("#sidebar").evaluate((element) => element.inert), true, "the list is out of reach");
  await page.tap("#open-sidebar");
  await until(() => page.evaluate(() => document.getAnimations().length === 0), "the drawer has opened");
  await fits("drawer");
  await until(() => page.locator("#main").evaluate((element) => element.inert), "the conversation is out of reach behind the drawer");
  await becomes(() => focused(page), "Close the list", "focus in the drawer");
  await page.keyboard.press("Escape");
  await becomes(() => focused(page), "Conversations", "focus after the drawer");
  await page.tap("#open-sidebar");
  await page.tap("#open-settings");
  await fits("settings");
  await page.keyboard.press("Escape");
  const small = await page.evaluate(() => [...document.querySelectorAll("button, summary, select, input")].filter((element) => element.checkVisibility() && !element.closest("[hidden]"))
    .filter((element) => { const box = element.getBoundingClientRect(); return box.width && (box.width < 24 || box.height < 24); }).map((element) => element.id || element.ariaLabel));
  equal(small, [], "controls smaller than 24 pixels");
  await page.finish();
  await mock.close();
});

test("stays where the reader is", async () => {
  const mock = await start();
  const page = await open(mock.url);
  await page.click("#speak");
  await say(page, "markdown");
  await say(page, "long", { wait: false });
  await until(async () => (await lastAnswer(page)).includes("word80"), "some lines");
  await until(() => page.evaluate(() => { const s = document.getElementById("scroll"); return s.scrollHeight - s.scrollTop - s.clientHeight < 60; }), "follows the answer");
  await page.locator("#scroll").hover();
  await page.mouse.wheel(0, -500);
  await until(() => page.locator("#latest").isVisible(), "the way back is offered");
  const place = await page.evaluate(() => document.getElementById("scroll").scrollTop);
  await until(async () => (await lastAnswer(page)).includes("word120"), "more lines");
  await until(async () => Math.abs((await page.evaluate(() => document.getElementById("scroll").scrollTop)) - place) < 5, "does not run away from the reader");
  await page.click("#latest");
  await until(() => page.locator("#latest").isHidden(), "at the end again");
  await page.keyboard.press("Escape");
  await page.finish();
  await mock.close();
});

test("less motion", async () => {
  const mock = await start();
  const page = await open(mock.url, { options: { reducedMotion: "reduce" } });
  await say(page, "long", { wait: false });
  await page.keyboard.press("Alt+m");
  await becomes(() => page.evaluate(() => document.getAnimations().filter((animation) => animation.playState === "running").length), 0, "running animations");
  await page.keyboard.press("Escape");
  await page.finish();
  await mock.close();
});
