// Markdown as DOM nodes. The text comes from a model: it never becomes markup, only text nodes inside elements made here, and links
// lead only to http, https and mailto. Pictures become links: the page asks no other host for anything. Time is linear in the length.

import { h, icon, announce, setIcon } from "./dom.js";

const DEPTH = 8; // of quotes and lists within each other; what is deeper is shown as text

/** Shows `text` in `container`, keeping the blocks that are as they were: an answer grows at its end. */
export function showMarkdown(container, text) {
  const wanted = blocks(text.replace(/\r\n?/g, "\n").split("\n"));
  const shown = (container.shownBlocks ||= []);
  let same = 0;
  while (same < shown.length && same < wanted.length && shown[same] === wanted[same].source) same++;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of wanted.slice(same)) container.append(render(block, 0));
  container.shownBlocks = wanted.map((block) => block.source);
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?: +|$)/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6})(?: +|$)(.*)$/;
const DIVIDER = /^ *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;

const indentOf = (line) => /^ */.exec(line)[0].length;

/** Cuts lines into blocks {type, lines, source}. */
function blocks(lines) {
  const list = [];
  const add = (type, from, to, extra = {}) => list.push({ type, lines: lines.slice(from, to), source: `${type}\n${lines.slice(from, to).join("\n")}`, ...extra });
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    let end = i + 1;
    const fence = FENCE.exec(line);
    if (!line.trim()) { i++; continue; }
    if (fence) {
      const close = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},} *$`);
      while (end < lines.length && !close.test(lines[end])) end++;
      add("code", i, Math.min(end + 1, lines.length), { language: fence[2], code: lines.slice(i + 1, end).join("\n") });
      end++;
    } else if (RULE.test(line)) {
      add("rule", i, end);
    } else if (HEADING.test(line)) {
      add("heading", i, end);
    } else if (/^ {0,3}>/.test(line)) {
      while (end < lines.length && /^ {0,3}>/.test(lines[end])) end++;
      add("quote", i, end);
    } else if (ITEM.test(line)) {
      const first = ITEM.exec(line);
      const ordered = /\d/.test(first[2]);
      for (; end < lines.length; end++) {
        const next = indentOf(lines[end]) < first[0].length ? ITEM.exec(lines[end]) : null;
        if (next ? /\d/.test(next[2]) !== ordered || RULE.test(lines[end]) : lines[end].trim() && !/^ {2,}/.test(lines[end]) && !lines[end - 1].trim()) break;
        if (!next && lines[end].trim() && !/^ {2,}/.test(lines[end]) && starts(lines[end])) break;
      }
      add("list", i, end, { ordered });
    } else if (line.includes("|") && DIVIDER.test(lines[i + 1] ?? "") && lines[i + 1].includes("-")) {
      end = i + 2;
      while (end < lines.length && lines[end].includes("|")) end++;
      add("table", i, end);
    } else {
      while (end < lines.length && lines[end].trim() && !starts(lines[end])) end++;
      add("paragraph", i, end);
    }
    i = end;
  }
  return list;
}

const starts = (line) => FENCE.test(line) || RULE.test(line) || HEADING.test(line) || /^ {0,3}>/.test(line) || /^ {0,3}(?:[-*+]|1[.)]) +\S/.test(line);

function render(block, depth) {
  const { type, lines } = block;
  if (type === "code") return codeBlock(block.code, block.language);
  if (type === "rule") return h("hr");
  if (type === "heading") {
    const [, marks, text] = HEADING.exec(lines[0]);
    // The page has its own first two levels.
    return h(`h${Math.min(6, marks.length + 2)}`, {}, inline(text.replace(/ +#+ *$/, "")));
  }
  if (type === "table") return table(lines);
  if (depth < DEPTH && type === "quote") {
    return h("blockquote", {}, blocks(lines.map((line) => line.replace(/^ {0,3}> ?/, ""))).map((inner) => render(inner, depth + 1)));
  }
  if (depth < DEPTH && type === "list") return listBlock(block, depth);
  return h("p", {}, inline(lines.map((line) => line.replace(/^ +/, "")).join("\n")));
}

function listBlock({ lines, ordered }, depth) {
  const items = [];
  for (const line of lines) {
    const mark = items.length === 0 || indentOf(line) < items.at(-1).indent ? ITEM.exec(line) : null;
    if (mark) items.push({ indent: mark[0].length, lines: [line.slice(mark[0].length)] });
    else items.at(-1).lines.push(line.slice(Math.min(items.at(-1).indent, indentOf(line))));
  }
  const start = ordered ? parseInt(lines[0].trim(), 10) : 1;
  return h(ordered ? "ol" : "ul", { start: start === 1 ? null : start }, items.map((item) => {
    const inner = blocks(item.lines);
    const task = /^\[([ xX])\] /.exec(item.lines[0]);
    if (task && inner[0]?.type === "paragraph") {
      inner[0].lines[0] = `${task[1] === " " ? "☐" : "☑"} ${item.lines[0].slice(4)}`;
    }
    // A short item needs no paragraph of its own.
    return h("li", {}, inner.flatMap((part, i) => (part.type === "paragraph" && i === 0 ? inline(part.lines.map((l) => l.trim()).join("\n")) : [render(part, depth + 1)])));
  }));
}

function cells(line) {
  const bare = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return bare.split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

function table(lines) {
  const sides = cells(lines[1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : null));
  const row = (line, tag) => h("tr", {}, cells(line).slice(0, Math.max(sides.length, 1)).map((cell, i) => h(tag, { class: sides[i], scope: tag === "th" ? "col" : null }, inline(cell))));
  return h("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" },
    h("table", {}, h("thead", {}, row(lines[0], "th")), h("tbody", {}, lines.slice(2).map((line) => row(line, "td")))));
}

/** A block of code with its language's name and a button that copies it. */
export function codeBlock(code, language) {
  const copy = h("button", { type: "button", class: "ghost small", "aria-label": "Copy this code", onclick: async () => {
    await copyText(code);
    setIcon(copy, "copy");
    copy.lastChild.textContent = "Copied";
    setTimeout(() => { copy.lastChild.textContent = "Copy"; }, 1500);
  } }, icon("copy"), h("span", {}, "Copy"));
  return h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language || "code"), copy),
    h("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, h("code", {}, code)));
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
  } catch {
    announce("The browser does not let this page copy");
  }
}

/** A link's address if it may be followed, else null. */
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(address, ...children) {
  const href = safeAddress(address);
  return href ? h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children) : h("span", {}, ...children);
}

const SPECIAL = /[\\`*_~![<\n]|https?:\/\//g;
const TAGS = { "**": "strong", "__": "strong", "*": "em", "_": "em", "~~": "del" };

/** Text within a block as nodes. `missing` remembers which closing marks are not to come: each is looked for once only. */
export function inline(text, depth = 0) {
  const nodes = [];
  const missing = new Set();
  let at = 0, plain = 0;
  const flush = (to) => { if (to > plain) nodes.push(text.slice(plain, to)); };
  const take = (node, from, to) => { flush(from); nodes.push(node); at = plain = to; };
  const find = (mark, from) => {
    if (missing.has(mark)) return -1;
    const found = text.indexOf(mark, from);
    if (found < 0) missing.add(mark);
    return found;
  };

  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const hit = SPECIAL.exec(text);
    if (!hit) break;
    at = hit.index;
    const letter = text[at];
    if (letter === "\\") {
      if (/[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) take(text[at + 1], at, at + 2);
      else at++;
    } else if (letter === "\n") {
      const hard = text.slice(Math.max(0, at - 2), at) === "  ";
      if (hard) take(h("br"), at, at + 1);
      else at++;
    } else if (letter === "`") {
      const run = /^`+/.exec(text.slice(at, at + 40))[0];
      const end = find(run, at + run.length);
      if (end >= 0) take(h("code", {}, text.slice(at + run.length, end).replace(/^ (.*) $/s, "$1")), at, end + run.length);
      else at += run.length;
    } else if (letter === "h") {
      // Not within a word; the address ends before the punctuation of the sentence.
      const address = /^https?:\/\/[^\s<>"`]{1,2000}/.exec(text.slice(at, at + 2100))?.[0].replace(/[.,;:!?'")\]*_]+$/, "");
      if (address && safeAddress(address) && !/\w/.test(text[at - 1] ?? "")) take(link(address, address), at, at + address.length);
      else at += 4;
    } else if (letter === "<") {
      const address = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/.exec(text.slice(at, at + 2100));
      if (address) take(link(address[1], address[1].replace(/^mailto:/, "")), at, at + address[0].length);
      else at++;
    } else if (letter === "[" || letter === "!") {
      const picture = letter === "!";
      const found = !picture || text[at + 1] === "["
        ? /^!?\[((?:[^[\]\\\n]|\\.|\[[^[\]\n]{0,200}\]){0,500})\]\(\s*<?([^\s()<>]{0,2000}(?:\([^\s()]{0,200}\)[^\s()<>]{0,200})?)>?(?:\s+"[^"\n]{0,200}")?\s*\)/.exec(text.slice(at, at + 3200))
        : null;
      if (found && depth < DEPTH) take(link(found[2], picture ? found[1] || found[2] : inline(found[1], depth + 1)), at, at + found[0].length);
      else at++;
    } else {
      const mark = TAGS[text.slice(at, at + 2)] ? text.slice(at, at + 2) : letter;
      const tag = TAGS[mark];
      const opens = tag && depth < DEPTH && /\S/.test(text[at + mark.length] ?? " ") && !(letter === "_" && /\w/.test(text[at - 1] ?? ""));
      let end = opens ? find(mark, at + mark.length + 1) : -1;
      // "*a **b** c*": the mark of one must not be half of a mark of two.
      for (let tries = 0; end >= 0 && tries < 50 && mark.length === 1 && text[end + 1] === letter; tries++) {
        const other = text.indexOf(letter + letter, end + 2);
        end = other < 0 ? -1 : find(mark, other + 2);
      }
      if (end >= 0 && /\S/.test(text[end - 1]) && !(letter === "_" && /\w/.test(text[end + mark.length] ?? ""))) {
        // Three marks together: the outer pair is the strong one.
        if (mark.length === 2 && text[end + 2] === letter) end++;
        take(h(tag, {}, inline(text.slice(at + mark.length, end), depth + 1)), at, end + mark.length);
      } else {
        at += mark.length;
      }
    }
  }
  flush(text.length);
  return nodes;
}
