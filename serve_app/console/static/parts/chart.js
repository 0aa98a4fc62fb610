// Charts by uPlot (vendored), in the page's colours, as wide as their place, and said in words for screen readers.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { fill, h } from "./dom.js";

// The value of a colour variable in the present theme, which a canvas needs resolved.
function colour(name) {
  const probe = h("span", { hidden: true });
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function axis(show, { size, label } = {}) {
  return {
    stroke: colour("muted"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", label, labelSize: label ? 20 : 0, size: size ?? 56,
    grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, ...(show ? { values: (_, values) => values.map((v) => (v === null ? "" : show(v))) } : {}),
  };
}

// `series`: [{label, colour, show, fill, dash, points, width}]. `x`: {time, show, label, name}. `bands`: [high, low, colour].
export class Chart {
  constructor({ title, series, x = { time: true }, y, bands = [], height = 190 }) {
    Object.assign(this, { title, series, x, y, bands, height });
    this.place = h("div", { "aria-hidden": "true" });
    this.words = h("p", { class: "sr" });
    this.element = h("figure", { class: "chart" }, this.words, this.place);
    this.data = null;
    this.plot = null;
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.element);
    this.themed = () => this.redraw();
    document.addEventListener("jethro:theme", this.themed);
  }

  // `data`: columns, the x values first. `words`: the same in a sentence. `at`: the row that the legend shows.
  show(data, words, at = data[0].length - 1) {
    this.data = data;
    this.at = at;
    this.words.textContent = `${this.title}: ${words}`;
    if (this.plot) this.plot.setData(data);
    else this.redraw();
    this.latest();
  }

  // While no pointer is on the chart, the legend shows one row, by default the newest.
  latest() {
    if (this.plot && !(this.plot.cursor.left >= 0)) this.plot.setLegend({ idx: this.at }, false);
  }

  fit() {
    const width = Math.floor(this.element.clientWidth);
    if (width && this.plot && this.plot.width !== width) this.plot.setSize({ width, height: this.height });
    else if (width && !this.plot && this.data) this.redraw();
  }

  redraw() {
    const width = Math.floor(this.element.clientWidth);
    if (!this.data || !width) return;
    this.plot?.destroy();
    fill(this.place);
    this.plot = new uPlot(this.options(width), this.data, this.place);
    requestAnimationFrame(() => this.latest()); // uPlot empties the legend with its first drawing
  }

  options(width) {
    const lines = this.series.map((one) => ({
      label: one.label, stroke: colour(one.colour), width: one.width ?? 2, dash: one.dash, spanGaps: false, points: one.points ?? { show: false },
      fill: one.fill ? colour(one.fill) : undefined, value: (_, value) => (value === null || value === undefined ? "–" : (one.show ?? this.y.show)(value)),
    }));
    const time = this.x.time === true;
    return {
      width, height: this.height, padding: [10, 18, 0, 0],
      cursor: { points: { size: 7 }, drag: { x: false, y: false } },
      scales: { x: { time, ...(this.x.range ? { range: this.x.range } : {}) }, y: { range: this.y.range ?? ((_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.08 : 1]) } },
      axes: [
        { ...axis(this.x.show, { size: 30, label: this.x.label }), ...(time ? { values: clockLabels, space: 70 } : {}) },
        axis(this.y.show, { size: this.y.size, label: this.y.label }),
      ],
      series: [{ label: this.x.name ?? "time", value: (_, value) => (value === null || value === undefined ? "–" : time ? new Date(value * 1000).toLocaleTimeString([], { hour12: false }) : this.x.show(value)) }, ...lines],
      bands: this.bands.map(([high, low, name]) => ({ series: [high, low], fill: colour(name) })),
      legend: { live: true, markers: { width: 0, fill: (_, i) => (i ? lines[i - 1].stroke : "transparent") } },
    };
  }

  remove() {
    this.resized.disconnect();
    document.removeEventListener("jethro:theme", this.themed);
    this.plot?.destroy();
  }
}

function clockLabels(_, values) {
  return values.map((v) => new Date(v * 1000).toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit", ...(v % 60 ? { second: "2-digit" } : {}) }));
}
