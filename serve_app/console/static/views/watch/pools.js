// The pools: what runs, how much of it, and how busy it is.

import { h } from "../../parts/dom.js";
import { count, share, usd } from "../../parts/format.js";
import { poolBadge } from "../../parts/decision.js";
import { table } from "../../parts/table.js";

export function pools(live) {
  const answered = Object.values(live.totals.pools).reduce((a, b) => a + b, 0);
  const price = (pool) => `${usd(pool.price.input_usd_per_million)} / ${usd(pool.price.output_usd_per_million)}`;
  return table("Pools", [
    { title: "pool", cell: ([name]) => poolBadge(name), header: true },
    { title: "model", cell: ([, p]) => p.model },
    { title: "state", cell: ([, p]) => (p.ok ? h("span", { class: "badge good" }, "answers") : h("span", { class: "badge bad", title: p.why ?? "" }, p.why ?? "down")) },
    { title: "replicas", cell: ([, p]) => count(p.replicas), number: true },
    { title: "in flight", cell: ([, p]) => count(p.in_flight), number: true },
    { title: "waiting", cell: ([, p]) => count(p.waiting), number: true },
    { title: "answers in window", cell: ([name]) => `${count(live.totals.pools[name] ?? 0)} (${share(answered ? (live.totals.pools[name] ?? 0) / answered : null, 0)})`, number: true },
    { title: "$ per 1M tokens in / out", cell: ([, p]) => price(p), number: true },
  ], Object.entries(live.pools));
}
