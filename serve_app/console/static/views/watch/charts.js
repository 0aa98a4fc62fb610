// The last ten minutes as four charts, by steps of a few seconds.

import { Chart } from "../../parts/chart.js";
import { h } from "../../parts/dom.js";
import { ms, rate, share, usd } from "../../parts/format.js";

const last = (values) => values.findLast((v) => v !== null) ?? null;
const highest = (values) => values.reduce((a, b) => (b !== null && b > a ? b : a), 0);

export class WatchCharts {
  constructor() {
    const unit = (_, low, high) => [0, 1];
    this.requests = new Chart({ title: "Requests per second", y: { show: rate }, series: [{ label: "requests", colour: "accent", fill: "accent-soft" }] });
    this.share = new Chart({ title: "Share to the large model", y: { show: (v) => share(v, 0), range: unit }, series: [{ label: "large", colour: "large", points: { show: true, size: 5 } }] });
    this.latency = new Chart({ title: "Latency to the last byte", y: { show: ms, size: 64 }, series: [{ label: "median", colour: "accent", points: { show: true, size: 5 } }, { label: "95 %", colour: "warn", points: { show: true, size: 5 } }] });
    this.cost = new Chart({ title: "Cost per step", y: { show: usd, size: 92 }, series: [{ label: "spent", colour: "accent", fill: "accent-soft" }, { label: "saved", colour: "small" }] });
    const card = (title, note, chart) => h("section", { class: "card" }, h("header", {}, h("h2", {}, title), h("span", { class: "muted" }, note)), chart.element);
    this.step = "steps of 5 s, last 10 min";
    this.element = h("div", { class: "grid" },
      card("Requests", `per second · ${this.step}`, this.requests), card("Share to the large model", `of routed requests · ${this.step}`, this.share),
      card("Latency", `to the last byte · ${this.step}`, this.latency), card("Cost and saving", `US dollars per 5 s · last 10 min`, this.cost));
  }

  show({ history: v }) {
    const x = v.at_s;
    this.requests.show([x, v.requests_per_s], `now ${rate(last(v.requests_per_s))}, at most ${rate(highest(v.requests_per_s))}.`);
    this.share.show([x, v.strong_share], `last ${share(last(v.strong_share))}.`);
    this.latency.show([x, v.latency_p50_ms, v.latency_p95_ms], `median ${ms(last(v.latency_p50_ms))}, 95th percentile ${ms(last(v.latency_p95_ms))}.`);
    this.cost.show([x, v.cost_usd, v.saved_usd], `last step ${usd(last(v.cost_usd))} spent, ${usd(last(v.saved_usd))} saved.`);
  }

  remove() {
    for (const chart of [this.requests, this.share, this.latency, this.cost]) chart.remove();
  }
}
