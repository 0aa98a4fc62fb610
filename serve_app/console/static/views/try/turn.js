// One turn: what the user said, the answer, and on demand the same from the small and the large model alone.

import { fill, h } from "../../parts/dom.js";
import { times, usd } from "../../parts/format.js";
import { Answer, sendFeedback } from "./answer.js";

const ALONE = { small: "Small model only", large: "Large model only" };

export class Turn {
  // `alone`: model ids by pool, for the comparison. `routed`: whether `request.model` makes a decision.
  constructor(said, request, alone, routed) {
    Object.assign(this, { request, alone, routed });
    this.answer = new Answer(routed ? "Jethro" : request.model, { routed });
    this.answer.request = request;
    this.answers = h("div", { class: "answers" }, this.answer.element);
    this.element = h("section", { class: "turn", "aria-label": "Turn" }, h("p", { class: "said" }, said), this.answers);
    this.compared = false;
  }

  async run(signal, sideBySide) {
    const jobs = [this.answer.run(this.request, signal)];
    if (sideBySide) jobs.push(this.compare(signal));
    const [done] = await Promise.all(jobs);
    if (done && this.answer.tools && !this.compared && this.others().length > 0) {
      fill(this.answer.tools, h("button", { type: "button", class: "tiny", onclick: () => this.compare() }, "Compare small and large"));
    }
    return done;
  }

  others() {
    return Object.entries(this.alone).filter(([, model]) => model !== null && model !== this.request.model);
  }

  async compare(signal) {
    this.compared = true;
    if (this.answer.tools) fill(this.answer.tools);
    const pools = this.others();
    const cards = pools.map(([pool]) => new Answer(ALONE[pool], { routed: false }));
    this.answers.classList.add("three");
    this.element.closest(".try")?.classList.add("wide");
    this.answers.append(...cards.map((card) => card.element));
    await Promise.all(cards.map((card, i) => card.run({ ...this.request, model: pools[i][1] }, signal)));
    await this.answer.finished;
    if (this.routed && cards.length === 2 && cards.every((card) => card.result)) this.askWhichIsBetter(cards);
    this.element.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  // What the decision cost, by what each model alone did.
  spending([small, large]) {
    const cost = (answer) => answer.decision?.cost_usd;
    const by = (answer, name) => (cost(answer) > 0 ? `${times(cost(this.answer) / cost(answer))} ${name} only (${usd(cost(answer))})` : null);
    const parts = [by(large, "large"), by(small, "small")].filter(Boolean);
    return parts.length > 0 && h("p", { class: "small" }, `Jethro's answer cost ${usd(cost(this.answer))}: ${parts.join(", ")}.`);
  }

  // A preference between the two pools is what routers learn from.
  askWhichIsBetter(cards) {
    const decision = this.answer.decision;
    if (!decision || !(decision.pool in ALONE)) return;
    const said = h("span", { class: "said-so", role: "status" });
    const choices = [["small", "Small"], ["tie", "Equal"], ["large", "Large"]].map(([preferred, label]) => {
      const button = h("button", { type: "button", class: "tiny", "aria-pressed": "false", onclick: () => sendFeedback({ decision_id: decision.decision_id, preferred }, said, () => {
        for (const one of choices) one.setAttribute("aria-pressed", String(one === button));
      }) }, label);
      return button;
    });
    const ask = h("div", { class: "thumbs", role: "group", "aria-label": "Which answer is better" }, h("span", { class: "small muted" }, "Which is better?"), choices, said);
    this.answers.append(h("div", { class: "verdict" }, this.spending(cards), ask));
  }
}
