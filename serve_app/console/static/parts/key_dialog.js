// Asks for a key. What is typed goes to this tab's memory and is cleared from the page at once.

import { openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { key, setKey } from "./keys.js";

const ABOUT = {
  caller: ["API key", "For asking, feedback, streams and adapters: a key of server.keys. Not needed where none are set."],
  admin: ["Admin key", "For live figures, all decisions and changes: the key that server.admin_key_env names."],
};
let open = null;

// `kind` is focused first; `why` is the endpoint's own sentence.
export function askForKey(kind = "caller", why = null) {
  if (open?.dialog.open) return;
  const fields = Object.entries(ABOUT).map(([name, [label, about]]) => field(name, label, about));
  const form = h("form", { class: "stack", onsubmit: (event) => save(event, fields) },
    why && h("p", { class: "notice warn" }, why), fields.map((f) => f.element),
    h("p", { class: "muted small" }, "Keys stay in this tab until you close it. They are sent to this endpoint alone, as a header."),
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Use"), h("button", { type: "button", onclick: () => forget(fields) }, "Forget both")));
  open = openDialog("Keys", form);
  fields.find((f) => f.name === kind).input.focus();
}

function field(name, label, about) {
  const state = key(name) === null ? "none set" : "set: leave empty to keep it";
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", placeholder: state, "aria-describedby": `about-${name}` });
  return { name, input, element: h("div", { class: "stack" }, h("label", {}, label, input), h("p", { class: "muted small", id: `about-${name}` }, about)) };
}

function save(event, fields) {
  event.preventDefault();
  const given = fields.map((f) => [f.name, f.input.value.trim()]).filter(([, value]) => value !== "");
  for (const f of fields) f.input.value = "";
  open.close();
  for (const [name, value] of given) setKey(name, value);
}

function forget(fields) {
  for (const f of fields) f.input.value = "";
  open.close();
  for (const name of Object.keys(ABOUT)) setKey(name, null);
}
