// Try: a chat that streams, and says of every answer which model gave it, why, and what it cost.

import { get } from "../../parts/api.js";
import { fill, h } from "../../parts/dom.js";
import { EXAMPLES, failed, labNotice, loading } from "../../parts/notice.js";
import { modelOf, modelSelect } from "./models.js";
import { Turn } from "./turn.js";

const GENERAL = ["Who wrote Hamlet?", "Explain what a router of language models does, in one sentence."];

export class TryView {
  constructor() {
    this.element = h("div", { class: "try" });
    this.turns = [];
    this.running = null;
  }

  async open() {
    if (this.models) return;
    fill(this.element, h("h1", { class: "sr" }, "Try"), loading("the models"));
    try {
      this.models = (await get("v1/models")).data.filter((model) => model.type !== "embedding");
    } catch (error) {
      fill(this.element, h("h1", {}, "Try"), failed(error, () => this.open()));
      return;
    }
    this.draw();
  }

  close() {}

  get embedded() {
    return this.models.some((m) => m.embedded);
  }

  draw() {
    const examples = this.embedded ? EXAMPLES : GENERAL;
    this.welcome = h("div", { class: "welcome" },
      h("div", { class: "head" }, h("h1", {}, "Ask, and see who answers"), h("p", {}, "Jethro sends each query to the small model, or to the large one where its answer would be better. Every answer says which model gave it, why, and what it cost.")),
      this.embedded && labNotice(),
      h("div", { class: "examples", role: "group", "aria-label": "Example prompts" }, examples.map((text) => h("button", { type: "button", onclick: () => this.send(text) }, text))));
    this.list = h("div", { class: "stack", "aria-label": "Conversation", role: "log", "aria-live": "off" });
    fill(this.element, this.welcome, this.list, this.composer());
    this.prompt.focus({ preventScroll: true });
  }

  composer() {
    this.select = modelSelect(this.models);
    this.prompt = h("textarea", { rows: "1", "aria-label": "Your prompt", placeholder: this.embedded ? "Ask a lab task" : "Ask anything", enterkeyhint: "send", onkeydown: (event) => this.typed(event) });
    this.sideBySide = h("input", { type: "checkbox" });
    this.context = h("input", { type: "checkbox", checked: !this.embedded });
    this.temperature = h("input", { type: "number", min: "0", max: "2", step: "0.1", value: "0" });
    this.tokens = h("input", { type: "number", min: "1", step: "1", placeholder: "the model's own" });
    this.button = h("button", { type: "submit", class: "primary send" }, "Send");
    this.clear = h("button", { type: "button", class: "quiet tiny", hidden: true, onclick: () => this.restart() }, "New chat");
    const settings = h("details", {}, h("summary", {}, "Settings"), h("div", { class: "settings" },
      h("label", {}, "Temperature (0 to 2)", this.temperature), h("label", {}, "Most tokens to write", this.tokens),
      h("label", { class: "check" }, this.context, "Send earlier turns too")));
    const form = h("form", { class: "composer", onsubmit: (event) => this.submit(event) },
      h("div", { class: "box" }, this.prompt,
        h("div", { class: "row" }, this.select, h("label", { class: "check" }, this.sideBySide, "Side by side"), this.button)),
      h("div", { class: "under" }, settings, this.clear));
    return form;
  }

  // Enter sends, Shift+Enter is a new line; Escape stops an answer.
  typed(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.submit(event);
    } else if (event.key === "Escape") this.running?.abort();
  }

  submit(event) {
    event.preventDefault();
    if (this.running) this.running.abort();
    else if (this.prompt.value.trim()) {
      const text = this.prompt.value.trim();
      this.prompt.value = "";
      this.send(text);
    }
  }

  async send(text) {
    if (this.running) return;
    const chosen = this.models.find((m) => m.id === this.select.value);
    const earlier = this.context.checked ? this.turns.filter((turn) => turn.answer.result).flatMap((turn) => [...turn.request.messages.slice(-1), { role: "assistant", content: turn.answer.result.text }]) : [];
    const request = { model: chosen.id, messages: [...earlier, { role: "user", content: text }], settings: this.settings() };
    const turn = new Turn(text, request, { small: modelOf(this.models, "small"), large: modelOf(this.models, "large") }, !chosen.pool);
    this.welcome.hidden = true;
    this.clear.hidden = false;
    this.turns.push(turn);
    this.list.append(turn.element);
    turn.element.scrollIntoView({ block: "start", behavior: "smooth" });
    this.running = new AbortController();
    this.button.textContent = "Stop";
    try {
      await turn.run(this.running.signal, this.sideBySide.checked);
    } finally {
      this.running = null;
      this.button.textContent = "Send";
    }
    turn.element.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  settings() {
    const number = (input) => (input.value === "" || !input.checkValidity() ? null : input.valueAsNumber);
    const temperature = number(this.temperature), tokens = number(this.tokens);
    return { ...(temperature === null ? {} : { temperature }), ...(tokens === null ? {} : { max_tokens: tokens }) };
  }

  restart() {
    this.running?.abort();
    this.turns = [];
    fill(this.list);
    this.welcome.hidden = false;
    this.clear.hidden = true;
    this.element.classList.remove("wide");
    this.prompt.focus();
  }
}
