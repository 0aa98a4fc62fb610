// Watch: what all Gateways do now, ten minutes of history, the pools, and the last decisions.

import { get } from "../../parts/api.js";
import { fill, h } from "../../parts/dom.js";
import { NBSP, span } from "../../parts/format.js";
import { empty, failed, loading } from "../../parts/notice.js";
import { poll } from "../../parts/poll.js";
import { WatchCharts } from "./charts.js";
import { Decisions } from "./decisions.js";
import { pools } from "./pools.js";
import { tiles } from "./tiles.js";

const EVERY_MS = 2000;
const WINDOWS = [30, 60, 300, 600];

export class WatchView {
  constructor() {
    this.window = h("select", { class: "window", "aria-label": "Window of the figures", onchange: () => this.polling.now() }, WINDOWS.map((s) => h("option", { value: s }, `last ${span(s)}`)));
    this.window.value = "60";
    this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggle() }, "Pause");
    this.when = h("p", {}, "Live figures of all Gateways.");
    this.head = h("div", { class: "head" }, h("div", {}, h("h1", {}, "Watch"), this.when), h("div", { class: "actions" }, this.window, this.pause));
    this.figures = h("div", { class: "stack" }, loading("live figures"));
    this.pools = h("section", { class: "card" }, h("header", {}, h("h2", {}, "Pools")), h("div"));
    this.element = h("div", { class: "stack" });
  }

  open() {
    this.paused = false;
    this.charts = new WatchCharts();
    this.decisions = new Decisions();
    this.pools.hidden = this.charts.element.hidden = this.decisions.element.hidden = true;
    fill(this.element, this.head, this.figures, this.charts.element, this.pools, this.decisions.element);
    this.polling = poll((signal) => this.step(signal), EVERY_MS);
  }

  close() {
    this.polling?.stop();
    this.charts?.remove();
  }

  toggle() {
    this.paused = !this.paused;
    this.pause.setAttribute("aria-pressed", String(this.paused));
    this.pause.textContent = this.paused ? "Resume" : "Pause";
    if (!this.paused) this.polling.now();
  }

  async step(signal) {
    if (this.paused) return;
    let live;
    try {
      live = await get(`v1/admin/live?window_s=${this.window.value}`, { signal });
    } catch (error) {
      if (error.name !== "AbortError" && error.code !== "lost") fill(this.figures, failed(error, () => this.polling.now()));
      throw error;
    }
    this.show(live);
    await this.decisions.load(signal);
  }

  show(live) {
    this.pools.hidden = this.charts.element.hidden = this.decisions.element.hidden = false;
    const gateways = live.gateways === 1 ? "one Gateway" : `${live.gateways} Gateways`;
    this.when.textContent = `All traffic of ${gateways}: figures of the last ${span(live.window_s)}, charts of the last 10${NBSP}min.`;
    const idle = live.history.requests.every((n) => n === 0) && live.totals.requests === 0;
    fill(this.figures, tiles(live), idle && h("div", { class: "card" }, empty("No traffic in the last ten minutes", "Ask something under Try, or send requests to /v1/chat/completions: figures move within seconds.")));
    this.charts.show(live);
    fill(this.pools.lastChild, pools(live));
    this.decisions.offer(Object.keys(live.pools));
  }
}
