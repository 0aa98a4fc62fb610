// What can be put in `model`, grouped as a person chooses: let the router decide, a method, or one model.

import { h } from "../../parts/dom.js";

const METHODS = {
  jethro: "Jethro decides",
  "jethro-route": "Routing",
  "jethro-route-all": "Routing over all pools",
  "jethro-cascade": "Cascade",
  "jethro-cascade-stream": "Streaming cascade",
  "jethro-cascade-route": "Cascade routing",
  "jethro-ensemble": "Ensemble",
  "jethro-orchestrate": "Orchestration",
};

export function modelSelect(models) {
  const methods = models.filter((m) => m.id in METHODS);
  const direct = models.filter((m) => m.pool && !(m.id in METHODS));
  const others = models.filter((m) => !(m.id in METHODS) && !m.pool);
  const option = (m, text) => h("option", { value: m.id, title: m.description }, text);
  const group = (label, list) => list.length > 0 && h("optgroup", { label }, list);
  return h("select", { "aria-label": "Who answers" },
    group("Methods", methods.map((m) => option(m, METHODS[m.id]))),
    group("One model, no decision", direct.map((m) => option(m, m.id))),
    group("Others", others.map((m) => option(m, m.id))));
}

// The model of a pool, which is listed before its adapters: what `weak-only` and `strong-only` mean.
export function modelOf(models, pool) {
  return models.find((m) => m.pool === pool)?.id ?? null;
}
