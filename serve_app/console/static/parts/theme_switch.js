// The switch of light, dark, and the system's setting. theme.js applies the kept choice before the page is drawn.

import { fill, icon } from "./dom.js";

const ORDER = ["system", "light", "dark"];
const ICON = { system: "system", light: "sun", dark: "moon" };

export function themeSwitch(button) {
  const root = document.documentElement;

  function show() {
    const now = root.dataset.theme;
    const label = `Theme: ${now}. Switch to ${following(now)}`;
    button.setAttribute("aria-label", label);
    button.title = label;
    fill(button, icon(ICON[now]));
  }

  button.addEventListener("click", () => {
    root.dataset.theme = following(root.dataset.theme);
    try {
      localStorage.setItem("jethro.theme", root.dataset.theme);
    } catch {
      // it holds until the page is closed
    }
    show();
    document.dispatchEvent(new CustomEvent("jethro:theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("jethro:theme")));
  show();
}

function following(theme) {
  return ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
}
