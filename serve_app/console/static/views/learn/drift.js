// Whether live traffic still looks like the data that each router was calibrated on.

import { h } from "../../parts/dom.js";
import { count, decimal, words } from "../../parts/format.js";
import { empty } from "../../parts/notice.js";
import { table } from "../../parts/table.js";

export function drift(routers) {
  const rows = routers.flatMap((r) => Object.entries(r.drift ?? {}).map(([signal, s]) => ({ router: r, signal, ...s })));
  const silent = routers.filter((r) => Object.keys(r.drift ?? {}).length === 0).map((r) => r.id);
  if (rows.length === 0) return empty("Nothing to compare with yet", "Drift is watched once a router that carries calibration statistics has scored some queries.");
  return h("div", { class: "stack" }, table("Drift of the routers", [
    { title: "router", cell: (r) => r.router.id, header: true },
    { title: "signal", cell: (r) => words(r.feature ? `${r.signal} (${r.feature})` : r.signal) },
    { title: "state", cell: (r) => (r.drift ? h("span", { class: "badge bad" }, "drifted") : h("span", { class: "badge good" }, "as calibrated")) },
    { title: "distance", cell: (r) => decimal(r.statistic), number: true },
    { title: "limit", cell: (r) => decimal(r.limit), number: true },
    { title: "recent queries compared", cell: (r) => count(r.queries), number: true },
  ], rows), silent.length > 0 && h("p", { class: "muted small" }, `Without statistics to compare with: ${silent.join(", ")}.`));
}

export function routers(list) {
  if (list.length === 0) return empty("No router in service", "Set routing.router in the config.");
  const trained = (r) => (r.models ? Object.values(r.models).join(" and ") : "–");
  return h("div", { class: "stack" }, table("Routers in service", [
    { title: "router", cell: (r) => (r.default ? `${r.id} (default)` : r.id), header: true },
    { title: "version", cell: (r) => r.version },
    { title: "threshold", cell: (r) => decimal(r.threshold, 4), number: true },
    { title: "scores", cell: (r) => r.placement },
    { title: "learned from", cell: trained },
    { title: "swaps", cell: (r) => count(r.swaps), number: true },
  ], list), list.filter((r) => r.warning || r.refused).map((r) => h("p", { class: "notice warn" }, `${r.id}: ${r.warning ?? r.refused}`)));
}
