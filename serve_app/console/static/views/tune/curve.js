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
    const row = (point, marks = [null, null]) => [x(point), point.quality.high, point.quality.value, point.quality.low, ...marks];
    const known = (point) => point && x(point) !== null && point.quality.value !== null;
    const rows = this.curve.points.filter(known).map((point) => row(point));
    if (known(current)) rows.push(row(current, [current.quality.value, null]));
    if (known(selected)) rows.push(row(selected, [null, selected.quality.value]));
    rows.sort((a, b) => a[0] - b[0]);
    const columns = [0, 1, 2, 3, 4, 5].map((i) => rows.map((one) => one[i]));
    const said = known(current) ? `in force: quality ${share(current.quality.value)} at ${share(x(current))} (${this.axis.label}).` : "no point in force.";
    this.chart.show(columns, said, rows.findIndex((one) => one[4] !== null));
  }

  remove() {
    this.chart.remove();
  }
}
