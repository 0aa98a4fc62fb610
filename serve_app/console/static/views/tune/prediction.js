// What a threshold would do, next to what the one in force does.

import { h } from "../../parts/dom.js";
import { count, decimal, share, signed, usd } from "../../parts/format.js";
import { table } from "../../parts/table.js";

const ROWS = [
  ["share", "share to the large model", share, (v) => `${signed(v * 100, 1)} points`],
  ["quality", "mean quality", share, (v) => `${signed(v * 100, 1)} points`],
  ["drop", "quality drop against always large", share, (v) => `${signed(v * 100, 1)} points`],
  ["cost_usd", "mean cost of a query", usd, (v) => (v < 0 ? usd(v) : `+${usd(v)}`)],
  ["cost_share", "cost, of always large", share, (v) => `${signed(v * 100, 1)} points`],
];

export function prediction(found) {
  const data = found.calibration;
  if (data === null) return h("p", { class: "muted" }, "This router has no calibration data, so nothing can be predicted. Calibrate it on answers of your models: jethro router calibrate --help.");
  const moved = Math.abs(found.threshold - found.current_threshold) >= 1e-9;
  const both = (figure, show) => [show(figure.value), figure.low !== null && figure.low !== undefined && h("div", { class: "muted small" }, `${show(figure.low)} – ${show(figure.high)}`)];
  const rows = ROWS.filter(([name]) => data.predicted[name]?.value !== null);
  return h("div", { class: "stack compare" },
    table("Prediction", [
      { title: "per query", cell: ([, title]) => title, header: true },
      { title: `in force (${decimal(found.current_threshold)})`, cell: ([name, , show]) => both(data.current[name], show), number: true },
      ...(moved ? [
        { title: `selected (${decimal(found.threshold)})`, cell: ([name, , show]) => both(data.predicted[name], show), number: true },
        { title: "change", cell: ([name, , , change]) => (data.change[name].value === null ? "–" : change(data.change[name].value)), number: true },
      ] : []),
    ], rows),
    h("p", { class: "muted small" }, `Of ${count(data.queries)} calibration queries, with ${share(data.level, 0)} intervals (${data.method}). It holds for traffic like them.${moved ? "" : " Move the slider to see what another threshold would do."}`),
    !data.applies && h("p", { class: "notice warn" }, "The calibration data is of other models than those in service: read this as a hint only."));
}
