// A router's cost-quality curve with its interval, the threshold in force on it, and the one looked at.

import { Chart } from "../../parts/chart.js";
import { share } from "../../parts/format.js";

const percent = (value) => share(value, 0);

// By cost where prices are known, otherwise by the share of calls of the large model.
export function axisOf(curve) {
  return curve.costs === "none" ? { field: "share", label: "share to the large model", name: "share" } : { field: "cost_share", label: "cost, % of always large", name: "cost" };
}

export class CurveChart {
  constructor(curve) {
    this.curve = curve;
    this.axis = axisOf(curve);
    const point = (colour, size) => ({ colour, width: 0, points: { show: true, size, width: 2 } });
    this.chart = new Chart({
      title: "Quality against cost", height: 330,
      x: { time: false, show: percent, label: this.axis.label, name: this.axis.name },
      y: { show: percent, label: "quality of the answers, mean", size: 58, range: (_, low, high) => [Math.max(0, low - 0.03), Math.min(1, high + 0.03)] },
      series: [
        { label: "95 % interval to", colour: "accent-soft", width: 0, show: share },
        { label: "quality", colour: "accent", show: share },
        { label: "from", colour: "accent-soft", width: 0, show: share },
        { label: "in force", show: share, ...point("large", 12) },
        { label: "selected", show: share, ...point("warn", 12) },
      ],
      bands: [[1, 3, "accent-soft"]],
    });
    this.element = this.chart.element;
  }

  show(current, selected) {
    const x = (point) => point[this.axis.field].value;
    const rows = this.curve.points.filter((p) => x(p) !== null && p.quality.value !== null).map((p) => [x(p), p.quality.high, p.quality.value, p.quality.low, null, null]);
    for (const [point, column] of [[current, 4], [selected, 5]]) {
      if (!point || x(point) === null || point.quality.value === null) continue;
      const row = [x(point), null, null, null, null, null];
      row[column] = point.quality.value;
      rows.push(row);
    }
    rows.sort((a, b) => a[0] - b[0]);
    this.chart.show(joined(rows), `in force: quality ${share(current?.quality.value)} at ${share(current && x(current))} (${this.axis.label}).`, rows.findIndex((row) => row[4] !== null));
  }

  remove() {
    this.chart.remove();
  }
}

// Columns, with the curve carried across the rows of the markers, which would otherwise cut it.
function joined(rows) {
  const columns = rows[0]?.map((_, i) => rows.map((row) => row[i])) ?? [[], [], [], [], [], []];
  for (const column of columns.slice(1, 4)) {
    for (let i = 0; i < column.length; i += 1) if (column[i] === null) column[i] = between(columns[0], column, i);
  }
  return columns;
}

function between(x, y, i) {
  let a = i - 1, b = i + 1;
  while (a >= 0 && y[a] === null) a -= 1;
  while (b < y.length && y[b] === null) b += 1;
  if (a < 0 || b >= y.length) return y[a] ?? y[b] ?? null;
  return x[b] === x[a] ? y[a] : y[a] + ((y[b] - y[a]) * (x[i] - x[a])) / (x[b] - x[a]);
}
