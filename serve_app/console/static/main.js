// Starts the console: tabs by the address's fragment, keys, theme, and the state of the endpoint.

import { fill, h, icon } from "./parts/dom.js";
import { askForKey } from "./parts/key_dialog.js";
import { watchState } from "./parts/state.js";
import { themeSwitch } from "./parts/theme_switch.js";
import { VIEWS } from "./views/registry.js";

const main = document.getElementById("main");
const tabs = document.getElementById("tabs");
const views = new Map();
const asked = new Set();
let shown = null;

fill(tabs, VIEWS.map(({ id, title }) => h("a", { href: `#${id}`, "data-view": id }, icon(id), title)));

function show() {
  if (location.hash === "#main") return; // the skip link
  const chosen = VIEWS.find(({ id }) => `#${id}` === location.hash) ?? VIEWS[0];
  const view = views.get(chosen.id) ?? new chosen.View();
  views.set(chosen.id, view);
  if (view === shown) return;
  const first = shown === null;
  asked.clear();
  shown?.close();
  shown = view;
  fill(main, view.element);
  view.open();
  document.title = `${chosen.title} · Jethro console`;
  for (const tab of tabs.children) {
    if (tab.dataset.view === chosen.id) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  if (!first) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

// The view starts over: with another key, or after the endpoint was away.
function again() {
  asked.clear();
  shown.close();
  shown.open();
}

// A view that looks again every few seconds asks once; what the user does asks each time.
function needKey({ kind, why, method }) {
  if (method === "GET" && asked.has(kind)) return;
  asked.add(kind);
  askForKey(kind, why);
}

addEventListener("hashchange", show);
document.addEventListener("jethro:key", (event) => needKey(event.detail));
document.addEventListener("jethro:keys", again);
document.addEventListener("jethro:back", again);
document.getElementById("keys").addEventListener("click", () => askForKey());
themeSwitch(document.getElementById("theme"));
watchState(document.getElementById("state"), document.getElementById("lost"));
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    const prompt = document.querySelector(".composer textarea");
    if (prompt) {
      event.preventDefault();
      prompt.focus();
    }
  }
});
show();
