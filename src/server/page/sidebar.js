// The list of conversations, which on a narrow screen is a drawer.

import { $, h, iconButton } from "./dom.js";

const narrow = matchMedia("(max-width: 52rem)");

/** Shows the list. `actions`: rename(conversation), remove(conversation), choose(conversation) */
export function showConversations(list, current, actions) {
  $("conversations").replaceChildren(...list.map((conversation) => h("li", { class: conversation.id === current ? "current" : null },
    h("a", {
      href: `#${conversation.id}`, "aria-current": conversation.id === current ? "page" : null,
      onclick: (event) => {
        event.preventDefault();
        actions.choose(conversation);
      },
    }, conversation.title),
    iconButton("edit", `Rename ${conversation.title}`, () => actions.rename(conversation)),
    iconButton("bin", `Delete ${conversation.title}`, () => actions.remove(conversation)))));
}

/** Opens or closes the drawer; keeps the focus where the user is. */
export function openDrawer(open) {
  const shown = open && narrow.matches;
  const was = document.body.classList.contains("drawer");
  document.body.classList.toggle("drawer", shown);
  $("shade").hidden = !shown;
  $("main").inert = shown;
  $("sidebar").inert = narrow.matches && !shown;
  $("open-sidebar").setAttribute("aria-expanded", String(shown));
  if (shown) $("close-sidebar").focus();
  else if (was) $("open-sidebar").focus();
}

export const drawerOpen = () => document.body.classList.contains("drawer");

export function connectDrawer() {
  $("open-sidebar").addEventListener("click", () => openDrawer(true));
  $("close-sidebar").addEventListener("click", () => openDrawer(false));
  $("shade").addEventListener("click", () => openDrawer(false));
  narrow.addEventListener("change", () => openDrawer(false));
  openDrawer(false);
}
