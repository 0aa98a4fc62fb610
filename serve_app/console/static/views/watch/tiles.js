// The figures of the window as tiles. Each says what it is of.

import { h } from "../../parts/dom.js";
import { count, ms, rate, share, span, usd } from "../../parts/format.js";

export function tiles(live) {
  const t = live.totals;
  const baseline = t.cost_usd + t.saved_usd;
  const saved = t.routed > 0 && baseline > 0 ? `${share(t.saved_usd / baseline)} less than always large` : "against always large";
  const all = [
    ["Requests", rate(t.requests_per_s), `${count(t.requests)} in ${span(live.window_s)} · ${count(live.in_flight)} in flight`],
    ["Share to the large model", share(t.strong_share), `${count(t.strong)} of ${count(t.routed)} routed`],
    ["Cost", usd(t.cost_usd), `${count(t.tokens)} tokens`],
    ["Saved", usd(t.saved_usd), saved],
    ["Latency, median", ms(t.latency_p50_ms), `95 % ${ms(t.latency_p95_ms)} · 99 % ${ms(t.latency_p99_ms)}`],
    ["First byte, median", ms(t.ttft_p50_ms), `95 % ${ms(t.ttft_p95_ms)} · 99 % ${ms(t.ttft_p99_ms)}`],
    ["Escalations", count(t.escalated), `${share(t.escalated_share)} of routed · ${usd(t.wasted_usd)} in rejected calls`],
    ["Errors", count(t.failed), `${count(t.refused)} refused (4xx) · ${count(t.cancelled)} cancelled`],
  ];
  return h("dl", { class: "tiles" }, all.map(([name, value, sub]) => h("div", { class: "tile", "data-tile": name }, h("dt", {}, name), h("dd", { class: "value" }, value), h("dd", { class: "sub" }, sub))));
}
