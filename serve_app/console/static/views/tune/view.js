// Tune: move a router's threshold along its curve, see what that would do, apply it, take it back.

import { ApiError, get, post } from "../../parts/api.js";
import { fill, h } from "../../parts/dom.js";
import { dateTime, decimal } from "../../parts/format.js";
import { askForKey } from "../../parts/key_dialog.js";
import { empty, failed, loading } from "../../parts/notice.js";
import { table } from "../../parts/table.js";
import { CurveChart } from "./curve.js";
import { prediction } from "./prediction.js";

const SETTLE_MS = 150;

export class TuneView {
  constructor() {
    this.select = h("select", { "aria-label": "Router", onchange: () => this.load() });
    this.about = h("p", {}, "How much quality a router buys for how much cost, and where it stands.");
    this.head = h("div", { class: "head" }, h("div", {}, h("h1", {}, "Tune"), this.about), h("div", { class: "actions" }, this.select));
    this.place = h("div", { class: "stack" });
    this.said = h("p", { role: "status", class: "outcome" });
    this.element = h("div", { class: "stack" }, this.head, this.place);
  }

  async open() {
    fill(this.place, loading("the routers"));
    try {
      const [access, routers] = await Promise.all([get("v1/admin/access"), get("v1/admin/routers")]);
      this.access = access;
      this.offer(routers.data);
    } catch (error) {
      fill(this.place, failed(error, () => this.open()));
      return;
    }
    await this.load();
  }

  close() {
    this.chart?.remove();
    clearTimeout(this.timer);
  }

  offer(routers) {
    const held = this.select.value || routers.find((r) => r.default)?.id;
    fill(this.select, routers.map((r) => h("option", { value: r.id }, r.default ? `${r.id} (default)` : r.id)));
    if (held) this.select.value = held;
    this.select.hidden = routers.length === 0;
  }

  async load() {
    const name = this.select.value;
    if (!name) {
      fill(this.place, h("div", { class: "card" }, empty("No router in service", "Set routing.router in the config, or train one: docs/train-a-router.md.")));
      return;
    }
    fill(this.place, loading("the curve"));
    try {
      const router = await get(`v1/admin/routers/${encodeURIComponent(name)}/curve`);
      if (name === this.select.value) this.draw(router);
    } catch (error) {
      fill(this.place, failed(error, () => this.load()));
    }
  }

  draw(router) {
    this.router = router;
    this.chart?.remove();
    this.chart = router.curve && new CurveChart(router.curve);
    this.points = (router.curve?.points ?? []).toSorted((a, b) => b.threshold - a.threshold);
    this.outcome = h("div", {}, loading("the prediction"));
    const chart = h("section", { class: "card" }, h("header", {}, h("h2", {}, "Quality against cost"), h("span", { class: "muted" }, router.curve ? `${router.curve.queries.toLocaleString("en-US")} calibration queries` : "")),
      this.chart ? this.chart.element : empty("No calibration data", "This router carries no curve. Calibrate it on answers of your models: jethro router calibrate --help."));
    fill(this.place, router.warning && h("p", { class: "notice warn" }, router.warning), h("div", { class: "tune" }, chart, this.controls()), h("section", { class: "card" }, h("header", {}, h("h2", {}, "What it would do")), this.outcome), this.history());
    this.chart?.show(router.curve.current, null);
    this.consider(this.kept?.id === router.id ? this.kept.threshold : router.threshold);
    this.kept = null;
  }

  controls() {
    const { router } = this;
    this.slider = h("input", { type: "range", min: "0", max: String(Math.max(0, this.points.length - 1)), step: "1", "aria-label": "Along the curve, from always small to always large", disabled: this.points.length < 2, oninput: () => this.consider(this.points[Number(this.slider.value)].threshold) });
    this.number = h("input", { type: "number", min: "0", max: "1", step: "any", onchange: () => this.number.checkValidity() && this.number.value !== "" && this.consider(this.number.valueAsNumber) });
    this.apply = h("button", { type: "button", class: "primary", onclick: () => this.change() }, "Apply");
    this.back = h("button", { type: "button", class: "quiet", onclick: () => this.consider(router.threshold) }, "Reset");
    return h("section", { class: "card" }, h("header", {}, h("h2", {}, "Threshold")),
      h("p", { class: "muted small" }, "A query whose score is at least the threshold goes to the large model."),
      h("dl", { class: "facts" }, h("dt", {}, "in force"), h("dd", { class: "num", id: "in-force" }, decimal(router.threshold, 4)), h("dt", {}, "set by"), h("dd", {}, router.rule ?? "the router itself"), h("dt", {}, "version"), h("dd", {}, router.version)),
      h("div", {}, this.slider, h("div", { class: "legend", "aria-hidden": "true" }, h("span", {}, "always small"), h("span", {}, "always large"))),
      h("label", {}, "Threshold, 0 (always large) to 1", this.number),
      h("div", { class: "row" }, this.apply, this.back), this.hint(), this.said);
  }

  // What stands in the way of a change, and what to do about it.
  hint() {
    const { router, access } = this;
    if (router.refused) return h("p", { class: "small muted" }, router.refused);
    if (access.writes === "closed") return h("p", { class: "small muted" }, "Changes are closed: no admin key is configured. Set ", h("code", {}, "server.admin_key_env"), " to the name of an environment variable that holds a key of your own, and restart.");
    if (!access.granted) return h("p", { class: "small muted" }, "To apply a threshold, the admin key is needed.");
    return null;
  }

  consider(threshold) {
    this.chosen = threshold;
    this.number.value = String(Number(threshold.toFixed(6)));
    if (this.points.length > 0) {
      const nearest = this.points.reduce((best, p, i) => (Math.abs(p.threshold - threshold) < Math.abs(this.points[best].threshold - threshold) ? i : best), 0);
      this.slider.value = String(nearest);
      this.slider.setAttribute("aria-valuetext", `threshold ${decimal(threshold, 4)}`);
    }
    const same = Math.abs(threshold - this.router.threshold) < 1e-9;
    this.apply.disabled = same || this.access.writes === "closed" || Boolean(this.router.refused);
    this.apply.textContent = same ? "Apply" : `Apply ${decimal(threshold, 4)}`;
    this.back.hidden = same;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.predict(), SETTLE_MS);
  }

  async predict() {
    const query = new URLSearchParams({ router: this.router.id, threshold: this.chosen });
    try {
      const found = await get(`v1/admin/predict?${query}`);
      if (found.threshold !== this.chosen) return; // the slider has moved on
      fill(this.outcome, prediction(found));
      const moved = Math.abs(this.chosen - this.router.threshold) >= 1e-9;
      this.chart?.show(this.router.curve.current, moved ? found.calibration?.predicted : null);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(this.outcome, failed(error, () => this.predict()));
    }
  }

  change() {
    return this.write(`threshold`, { threshold: this.chosen }, (c) => `Threshold ${decimal(c.after, 4)} is in force (it was ${decimal(c.before, 4)}).`);
  }

  undo() {
    return this.write("undo", undefined, (c) => `Taken back: threshold ${decimal(c.after, 4)} is in force again.`);
  }

  async write(action, body, sentence) {
    if (!this.access.granted) {
      this.kept = { id: this.router.id, threshold: this.chosen };
      askForKey("admin", "A change of the threshold needs the admin key.");
      return;
    }
    this.apply.disabled = true;
    this.said.textContent = "Applying …";
    try {
      const done = await post(`v1/admin/routers/${encodeURIComponent(this.router.id)}/${action}`, body);
      this.said.textContent = sentence(done.change);
      await this.load();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.said.textContent = error.message;
      this.apply.disabled = false;
    }
  }

  history() {
    const { history, history_damaged: damaged } = this.router;
    const last = history[0];
    const undo = last && h("button", { type: "button", class: "tiny", disabled: this.access.writes === "closed", onclick: () => this.undo() }, "Undo the last change");
    return h("section", { class: "card" }, h("header", {}, h("h2", {}, "History"), h("span", { class: "muted" }, "changes of this router's threshold, newest first"), h("span", { class: "right" }, undo)),
      damaged > 0 && h("p", { class: "notice warn" }, `${damaged} lines of the history cannot be read.`),
      history.length === 0 ? empty("No change yet", "A change that you apply is listed here and can be taken back.") : table("History of the threshold", [
        { title: "time", cell: (c) => dateTime(c.changed_s), header: true },
        { title: "by", cell: (c) => c.by },
        { title: "action", cell: (c) => c.action },
        { title: "before", cell: (c) => decimal(c.before, 4), number: true },
        { title: "after", cell: (c) => decimal(c.after, 4), number: true },
        { title: "version", cell: (c) => c.version },
      ], history));
  }
}
