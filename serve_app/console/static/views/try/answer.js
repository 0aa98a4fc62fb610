// One answer while it streams and after: text, decision, cost, latency, thumbs.

import { ApiError, get, post } from "../../parts/api.js";
import { complete } from "../../parts/completion.js";
import { contributions, marks, openDecision, poolBadge, raisedBy, reason, scale } from "../../parts/decision.js";
import { fill, h, icon } from "../../parts/dom.js";
import { count, ms, usd } from "../../parts/format.js";

const TRIES = 8;
const PAUSE_MS = 150;

export class Answer {
  // `title` names the card; `routed`: a decision was made, so that it is explained and rated.
  constructor(title, { routed }) {
    this.routed = routed;
    this.result = null;
    this.finished = new Promise((resolve) => (this.finish = resolve));
    this.badges = h("div", { class: "row" });
    this.text = h("div", { class: "text", "aria-live": "polite" });
    this.under = h("div", { class: "stack" });
    this.element = h("article", { class: "card answer", "aria-busy": "true", "aria-label": title }, h("header", {}, h("h3", {}, title), this.badges), this.text, this.under);
  }

  // Streams to the end; an error is shown in place. Resolves to whether there is an answer.
  async run(request, signal) {
    try {
      this.result = await complete(request, {
        signal,
        onText: (piece) => this.text.append(piece),
        onDecision: (decision) => fill(this.badges, decision.pool && poolBadge(decision.pool, decision.model)),
      });
      this.done();
      return true;
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
      const stopped = error.name === "AbortError";
      fill(this.under, h("p", { class: stopped ? "muted" : "failed", role: stopped ? "status" : "alert" }, stopped ? "Stopped." : error.message));
      return false;
    } finally {
      this.element.setAttribute("aria-busy", "false");
      this.finish();
    }
  }

  get decision() {
    return this.result?.jethro ?? null;
  }

  done() {
    const { result, decision } = this;
    if (result.text === "") fill(this.text, h("span", { class: "muted" }, "(an empty answer)"));
    fill(this.badges, decision && poolBadge(decision.pool, decision.model), decision && marks(decision));
    fill(this.under, decision?.warning && h("p", { class: "warn" }, decision.warning), this.routed && decision && this.why(decision), this.spent(), this.routed && decision && this.thumbs(decision));
  }

  why(decision) {
    const explained = h("div", { class: "stack" });
    if (Number.isFinite(decision.score)) this.explain(explained, decision);
    return h("div", { class: "why" }, h("p", { class: "line" }, reason(decision)), scale(decision), explained);
  }

  // The stored decision has the contributions where the router gives them for nothing; else they are asked for.
  async explain(place, decision) {
    try {
      const { features } = await stored(decision.decision_id);
      if (contributions(features)) this.showFeatures(place, features);
      else fill(place, h("div", {}, h("button", { type: "button", class: "tiny", onclick: () => this.scoreAgain(place) }, "What raised the score?")));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(place, h("p", { class: "muted small" }, error.message));
    }
  }

  async scoreAgain(place) {
    try {
      const { features } = await post("v1/route", { model: this.request.model, messages: this.request.messages });
      if (contributions(features)) this.showFeatures(place, features);
      else fill(place, h("p", { class: "muted small" }, "This router does not explain its scores."));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(place, h("p", { class: "failed small" }, error.message));
    }
  }

  showFeatures(place, features) {
    const line = raisedBy(features);
    fill(place, h("details", {}, h("summary", {}, "Score ", line || "made of"), contributions(features)));
  }

  spent() {
    const { usage, jethro, firstMs, totalMs } = this.result;
    const rows = [
      ["cost", usd(jethro?.cost_usd), "US dollars of all model calls for this answer"],
      ["first text", ms(firstMs), "From sending to the first text, as this browser saw it"],
      ["total", ms(totalMs), "From sending to the end, as this browser saw it"],
      ["tokens", usage ? `${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out` : "–", "Tokens read and written"],
    ];
    const wasted = jethro?.wasted;
    if (wasted?.total_tokens) rows.push(["rejected", `${count(wasted.total_tokens)} tokens, ${usd(wasted.cost_usd)}`, "Calls that are in no answer"]);
    return h("dl", { class: "spent" }, rows.map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", {}, value))));
  }

  thumbs(decision) {
    const said = h("span", { class: "said-so", role: "status" });
    const rate = (score, label, name) => {
      const button = h("button", { type: "button", class: "tiny", "aria-pressed": "false", "aria-label": label, title: label, onclick: () => give(score, button) }, icon(name));
      return button;
    };
    const buttons = [rate(1, "Good answer", "up"), rate(0, "Bad answer", "down")];
    const give = (score, pressed) => sendFeedback({ decision_id: decision.decision_id, score }, said, () => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === pressed));
    });
    this.tools = h("div", { class: "row" });
    return h("div", { class: "thumbs" }, buttons, h("button", { type: "button", class: "tiny quiet", onclick: () => openDecision(decision.decision_id) }, "Everything considered"), this.tools, said);
  }
}

// Stores feedback, and says so only once it is durable.
export async function sendFeedback(body, said, done) {
  said.textContent = "Storing …";
  try {
    await retried(() => post("v1/feedback", body));
    said.textContent = "Feedback stored.";
    done();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    said.textContent = error.message;
  }
}

function stored(id) {
  return retried(() => get(`v1/decisions/${encodeURIComponent(id)}`));
}

// With several Gateways, a decision just made is another's to write: it is there a moment later.
async function retried(call) {
  for (let i = 1; ; i += 1) {
    try {
      return await call();
    } catch (error) {
      if (error.status !== 404 || i === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS * i));
    }
  }
}
