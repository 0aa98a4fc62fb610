// A decision in words and on its scale, in short for an answer and in full for a dialog.

import { ApiError, get } from "./api.js";
import { openDialog } from "./dialog.js";
import { fill, h } from "./dom.js";
import { dateTime, decimal, ms, share, signed, usd, words } from "./format.js";
import { failed, loading } from "./notice.js";
import { table } from "./table.js";

const MOST_FEATURES = 8;
const BASE = "bias";

export function poolBadge(pool, model) {
  const known = pool === "small" || pool === "large" ? pool : "";
  return h("span", { class: `badge ${known}`, title: model ? `pool ${pool}, model ${model}` : `pool ${pool}` }, pool ?? "no pool", model && pool !== model ? ` · ${model}` : "");
}

// The score on its scale: left of the threshold the small model answers, from it on the large one.
export function scale({ score, threshold }) {
  if (!Number.isFinite(score) || !Number.isFinite(threshold)) return null;
  const part = (value) => `${Math.min(1, Math.max(0, value)) * 100}%`;
  const over = h("span", { class: "over" }), limit = h("span", { class: "limit" });
  const at = h("span", { class: `at ${score >= threshold ? "large" : ""}` });
  over.style.left = limit.style.left = part(threshold);
  at.style.left = part(score);
  const said = `Score ${decimal(score)} on a scale from 0 to 1, threshold ${decimal(threshold)}`;
  return h("div", {}, h("div", { class: "scale", role: "img", "aria-label": said }, h("span", { class: "track" }, over), limit, at),
    h("div", { class: "legend", "aria-hidden": "true" }, h("span", {}, "0 · small is as good"), h("span", {}, "large is better · 1")));
}

export function reason(decision) {
  const { score, threshold } = decision;
  if (Number.isFinite(score) && Number.isFinite(threshold)) {
    const strong = score >= threshold;
    return `Score ${decimal(score)} ${strong ? "≥" : "<"} threshold ${decimal(threshold)}: ${strong ? "the large model is worth it" : "the small model is good enough"}.`;
  }
  return decision.reason || "No score: this model was named in the request.";
}

// Why the score is what it is; null where the router explains nothing.
export function contributions(features) {
  const all = Object.entries(features ?? {}).sort(([, a], [, b]) => Math.abs(b) - Math.abs(a)).slice(0, MOST_FEATURES);
  if (all.length === 0) return null;
  return table("Feature contributions to the score, largest first", [
    { title: "feature of the prompt", cell: ([name]) => featureName(name), header: true },
    { title: "contribution, log-odds", cell: ([, value]) => signed(value), number: true },
  ], all);
}

// The same as one line: the strongest on each side. The base level is the same for all prompts.
export function raisedBy(features) {
  const all = Object.entries(features ?? {}).filter(([name]) => name !== BASE);
  const side = (sign) => all.filter(([, v]) => v * sign > 0).sort(([, a], [, b]) => (b - a) * sign).slice(0, 3).map(([name, v]) => `${featureName(name)} (${signed(v, 1)})`).join(", ");
  const raised = side(1), lowered = side(-1);
  return [raised && `raised by ${raised}`, lowered && `lowered by ${lowered}`].filter(Boolean).join("; ");
}

function featureName(name) {
  return { [BASE]: "base level, the same for all", chars: "length in characters" }[name] ?? words(name).replaceAll("|", " · ").replaceAll(":", " ");
}

// What else a decision carries: task, adapter, privacy class, who runs the pool, findings of guards.
export function marks(decision) {
  const plain = (text, title) => h("span", { class: "badge plain", title }, text);
  return [
    decision.task && plain(`task ${decision.task}`, "The task that orchestration recognized."),
    decision.adapter && plain(`adapter ${decision.adapter}`, "The adapter of the model."),
    decision.privacy && decision.privacy !== "any" && plain(`privacy class ${decision.privacy}`, "The privacy class in force."),
    decision.place && decision.place !== "local" && plain(`answered at a ${decision.place} place`, "Who runs the pool that answered."),
    ...Object.entries(decision.guards ?? {}).map(([name, n]) => plain(`${name}: ${n}`, "Findings of a guard.")),
  ].filter(Boolean);
}

// Everything considered, from the store: by the caller's route, or the operator's.
export async function openDecision(id, { admin = false } = {}) {
  const { body, dialog } = openDialog("Decision", loading("the decision"));
  try {
    const record = await get(`${admin ? "v1/admin" : "v1"}/decisions/${encodeURIComponent(id)}`);
    if (dialog.open) fill(body, whole(record));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    fill(body, failed(error));
  }
}

function whole(record) {
  return [
    h("div", { class: "row" }, poolBadge(record.pool, record.model), statusBadge(record.status), marks(record)),
    h("p", {}, record.reason ?? reason(record)),
    record.warning && h("p", { class: "notice warn" }, record.warning),
    scale(record),
    section("Feature contributions", contributions(record.features)),
    section("Actions considered", expected(record.expected)),
    section("Model calls", steps(record.steps)),
    section("Request", facts(record)),
    section("Feedback", feedback(record.feedback)),
  ];
}

function section(title, content) {
  return content && h("section", { class: "stack" }, h("h3", {}, title), content);
}

export function statusBadge(status) {
  const kind = { failed: "bad", cancelled: "warn" }[status] ?? "plain";
  return h("span", { class: `badge ${kind}` }, words(status ?? "unknown"));
}

function expected(actions) {
  const rows = Object.entries(actions ?? {});
  if (rows.length === 0) return null;
  return table("Expected quality, cost and latency of every action considered", [
    { title: "action", cell: ([name]) => name, header: true },
    { title: "expected quality", cell: ([, e]) => share(e.quality), number: true },
    { title: "expected cost", cell: ([, e]) => usd(e.cost ?? e.cost_usd), number: true },
    { title: "expected latency", cell: ([, e]) => ms(e.latency ?? e.latency_ms), number: true },
  ], rows);
}

function steps(calls) {
  if (!Array.isArray(calls) || calls.length === 0) return null;
  return table("Model calls made for this answer", [
    { title: "pool", cell: (s) => s.pool, header: true },
    { title: "why", cell: (s) => s.reason || "–" },
    { title: "tokens in / out", cell: (s) => `${s.usage?.prompt_tokens ?? s.prompt_tokens ?? "–"} / ${s.usage?.completion_tokens ?? s.completion_tokens ?? "–"}`, number: true },
    { title: "cost", cell: (s) => usd(s.cost_usd), number: true },
    { title: "latency", cell: (s) => ms(s.latency_ms), number: true },
    { title: "used", cell: (s) => (s.failed ? "failed" : s.wasted ? "rejected" : "in the answer") },
  ], calls);
}

function facts(r) {
  const rows = [
    ["decision", r.decision_id], ["time", dateTime(r.created_s)], ["strategy", r.strategy], ["router", r.router], ["policy", r.policy_version], ["privacy class", r.privacy], ["pool runs", r.place],
    ["time to decide", ms(r.decision_ms)], ["first byte", ms(r.ttft_ms)], ["last byte", ms(r.latency_ms)],
    ["tokens in / out", `${r.prompt_tokens ?? "–"} / ${r.completion_tokens ?? "–"}`], ["cost", usd(r.cost_usd)],
    ["error", r.error_code], ["tenant", r.tenant], ["user", r.user], ["prompt", r.prompt],
  ];
  return h("dl", { class: "facts" }, rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function feedback(given) {
  if (!Array.isArray(given) || given.length === 0) return h("p", { class: "muted small" }, "None yet.");
  return table("Feedback on this decision", [
    { title: "time", cell: (f) => dateTime(f.created_s), header: true },
    { title: "score", cell: (f) => decimal(f.score, 2), number: true },
    { title: "preferred", cell: (f) => f.preferred ?? "–" },
    { title: "comment", cell: (f) => f.comment ?? "–" },
  ], given);
}
