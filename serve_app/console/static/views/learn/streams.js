// The streams of the online cascade: what each learned, how many queries still reach the LLM, and whether it drifts.

import { h } from "../../parts/dom.js";
import { count, decimal, share, words } from "../../parts/format.js";
import { empty } from "../../parts/notice.js";
import { table } from "../../parts/table.js";

const HOW = `curl -s ${new URL("v1/streams", document.baseURI)} -H 'content-type: application/json' \\
  -d '{"name": "mood", "labels": ["good", "bad"], "instruction": "Is this text good or bad?"}'`;

export function streams(list) {
  if (list.length === 0) {
    return empty("No streams yet", "A stream classifies texts with small models that learn from the LLM's answers, within a budget of LLM calls. Create one:", h("pre", {}, h("code", {}, HOW)));
  }
  return h("div", { class: "stack" }, list.map(stream));
}

function stream(s) {
  const f = s.figures ?? {};
  const state = { learning: "good", "learner away": "warn" }[s.state] ?? "bad";
  return h("article", { class: "stack" },
    h("div", { class: "row" }, h("h3", {}, s.id), h("span", { class: `badge ${state}` }, s.state), f.warming_up && h("span", { class: "badge plain" }, "warming up")),
    s.error && h("p", { class: "notice bad" }, s.error),
    h("dl", { class: "facts" }, facts(s, f)),
    levels(s, f));
}

function facts(s, f) {
  const budget = s.llm_share !== null && s.llm_share !== undefined ? `${share(s.llm_share)} of queries` : s.mu !== null && s.mu !== undefined ? `price ${s.mu} per unit of cost` : "–";
  const rows = [
    ["model to call", s.model], ["labels", (s.labels ?? []).join(", ")], ["queries", count(f.queries)],
    ["to the LLM", `${share(f.llm_share)} since the start (budget: ${budget})`],
    ["agreement with the LLM", `${share(f.agreement)} of late, ${share(f.agreement_overall)} in all ${count(f.audits)} audits`],
    ["drift", drift(f)], ["policy version", count(f.version)],
  ];
  return rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}

function drift(f) {
  if (!Number.isFinite(f.drift_alarms)) return "–";
  const alarms = f.drift_alarms === 0 ? "no change of the LLM's labels seen" : `${count(f.drift_alarms)} changes of the LLM's labels seen`;
  return Number.isFinite(f.drift_level) ? `${alarms} (surprise ${decimal(f.drift_level, 2)})` : alarms;
}

function levels(s, f) {
  const rows = Object.keys(f.share ?? {});
  if (rows.length === 0) return null;
  return table(`Levels of ${s.id}`, [
    { title: "level", cell: (name) => words(name), header: true },
    { title: "answers", cell: (name) => share(f.share?.[name]), number: true },
    { title: "computed", cell: (name) => count(f.computed?.[name]), number: true },
    { title: "updates", cell: (name) => count(f.updates?.[name]), number: true },
    { title: "agreement with the LLM, of late", cell: (name) => share(f.level_agreement?.[name]), number: true },
  ], rows);
}
