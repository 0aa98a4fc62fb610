// The last decisions, with filters; one that is opened shows everything considered.

import { get } from "../../parts/api.js";
import { openDecision, poolBadge, statusBadge } from "../../parts/decision.js";
import { fill, h } from "../../parts/dom.js";
import { clock, decimal, ms, usd } from "../../parts/format.js";
import { empty, failed, loading } from "../../parts/notice.js";
import { table } from "../../parts/table.js";

const PAGE = 25;
const STATUSES = ["completed", "failed", "cancelled", "route_only"];

export class Decisions {
  constructor() {
    this.filters = { pool: this.choice("Pool", []), strategy: this.text("Strategy", "route, cascade, …"), status: this.choice("Status", STATUSES), min_latency_ms: this.text("Slower than, ms", "250", "number"), since: this.text("Since", "15m, 2h, 7d") };
    this.place = h("div", { "aria-live": "off" }, loading("decisions"));
    this.more = h("div", { class: "row" });
    this.older = [];
    const form = h("form", { class: "filters", "aria-label": "Filters of decisions", onsubmit: (event) => event.preventDefault() }, Object.values(this.filters).map((f) => f.label));
    this.element = h("section", { class: "card" }, h("header", {}, h("h2", {}, "Last decisions"), h("span", { class: "muted" }, "all tenants, newest first")), form, this.place, this.more);
  }

  choice(label, values) {
    const input = h("select", { onchange: () => this.filtered() }, h("option", { value: "" }, "any"), values.map((v) => h("option", { value: v }, v.replaceAll("_", " "))));
    return { input, label: h("label", {}, label, input) };
  }

  text(label, placeholder, type = "text") {
    const input = h("input", { type, placeholder, spellcheck: "false", autocomplete: "off", onchange: () => this.filtered() });
    return { input, label: h("label", {}, label, input) };
  }

  // The pools that can be chosen are known once live figures have come.
  offer(names) {
    const { input } = this.filters.pool;
    const held = new Set([...input.options].map((o) => o.value));
    input.append(...names.filter((n) => !held.has(n)).map((n) => h("option", { value: n }, n)));
  }

  filtered() {
    this.older = [];
    fill(this.place, loading("decisions"));
    return this.load().catch(() => {});
  }

  query(extra = {}) {
    const given = Object.entries(this.filters).map(([name, f]) => [name, f.input.value.trim()]).filter(([, v]) => v !== "");
    return new URLSearchParams({ limit: PAGE, ...Object.fromEntries(given), ...extra });
  }

  // Replaces the first page; older ones that were asked for stay below it.
  async load(signal) {
    try {
      this.page = await get(`v1/admin/decisions?${this.query()}`, { signal });
      if (this.older.length === 0) this.next = this.page.next;
      this.draw();
    } catch (error) {
      if (error.name !== "AbortError") fill(this.place, failed(error, () => this.filtered()));
      throw error;
    }
  }

  async loadOlder() {
    const page = await get(`v1/admin/decisions?${this.query({ before: this.next })}`);
    this.older.push(...page.data);
    this.next = page.next;
    this.draw();
  }

  draw() {
    const seen = new Set();
    const rows = [...this.page.data, ...this.older].filter((r) => !seen.has(r.decision_id) && seen.add(r.decision_id));
    const filtered = Object.values(this.filters).some((f) => f.input.value.trim() !== "");
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const scrolled = this.place.firstChild?.scrollLeft ?? 0;
    fill(this.place, rows.length > 0 ? this.table(rows) : filtered ? empty("No decision matches", "Widen or clear the filters.") : empty("No decisions yet", "Ask something under Try, or send a request to /v1/chat/completions: it appears here."));
    this.place.firstChild.scrollLeft = scrolled;
    if (focused) this.place.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    fill(this.more, this.next && rows.length > 0 && h("button", { type: "button", class: "tiny", onclick: () => this.loadOlder() }, "Show older"));
  }

  table(rows) {
    const open = (r) => h("button", { type: "button", class: "link", "data-id": r.decision_id, "aria-label": `Open the decision of ${clock(r.created_s)}`, onclick: () => openDecision(r.decision_id, { admin: true }) }, clock(r.created_s));
    return table("Last decisions", [
      { title: "time", cell: open, header: true },
      { title: "answered by", cell: (r) => poolBadge(r.pool, r.model) },
      { title: "strategy", cell: (r) => r.strategy },
      { title: "score", cell: (r) => decimal(r.score), number: true },
      { title: "threshold", cell: (r) => decimal(r.threshold), number: true },
      { title: "cost", cell: (r) => usd(r.cost_usd), number: true },
      { title: "first byte", cell: (r) => ms(r.ttft_ms), number: true },
      { title: "last byte", cell: (r) => ms(r.latency_ms), number: true },
      { title: "status", cell: (r) => statusBadge(r.status) },
    ], rows);
  }
}
