// What a view says in place of data: it loads, there is nothing yet, it failed. Each says what to do next.

import { h } from "./dom.js";
import { askForKey } from "./key_dialog.js";

export function loading(what) {
  return h("p", { class: "loading", role: "status" }, `Loading ${what} …`);
}

export function empty(title, ...advice) {
  return h("div", { class: "empty" }, h("strong", {}, title), advice.map((line) => (typeof line === "string" ? h("p", {}, line) : line)));
}

export function failed(error, retry) {
  const again = retry && h("button", { type: "button", class: "tiny", onclick: retry }, "Try again");
  const key = error.keyKind && h("button", { type: "button", class: "tiny", onclick: () => askForKey(error.keyKind) }, "Enter a key");
  return h("div", { class: "notice bad", role: "alert" }, h("p", {}, error.message), h("div", { class: "row" }, key, again));
}

export const EXAMPLES = ["what is 40 + 2?", "sort 52 17 88 6 34", "how many r in strawberry?", "687 + 320"];

// The embedded models are real, and tiny: a newcomer should learn that here and not from a strange answer.
export function labNotice() {
  return h("aside", { class: "notice", "aria-label": "About the embedded models" },
    h("p", {}, h("strong", {}, "These are tiny embedded models that know lab tasks only: "),
      "arithmetic, sorting, letters, dates, units, look-ups. They are real models, made so that quality, cost and latency can be measured on any machine."),
    h("p", { class: "muted" }, "For real English: ", h("code", {}, "make serve CONFIG=assistant"), ". For your own two models: ", h("code", {}, "jethro init"), ", or one line each in the config under ", h("code", {}, "pools"), "."));
}
