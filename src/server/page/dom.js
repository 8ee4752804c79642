// Small helpers over the DOM. Text always becomes text nodes: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id; it must exist. */
export const $ = (id) => document.getElementById(id);

/**
 * h("p", {class: "quiet", onclick: f, "aria-label": "x"}, "text", node, [more]): an element. Values null and false leave an attribute, or a
 * child, out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function setIcon(element, name) {
  element.querySelector("use").setAttribute("href", `#i-${name}`);
}

export function iconButton(name, label, onclick, extra = {}) {
  return h("button", { type: "button", class: "ghost round", "aria-label": label, title: label, onclick, ...extra }, icon(name));
}

/** Says something to screen readers without showing it. The same words twice are said twice. */
export function announce(text) {
  const status = $("status");
  status.textContent = "";
  setTimeout(() => { status.textContent = text; }, 50);
}

/** Offers a blob as a file to save. */
export function saveAs(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** 75.3 -> "1:15" */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
