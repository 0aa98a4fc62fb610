// LoRA adapters: what is served, where it is loaded, and whether every replica keeps it.

import { patch } from "../../parts/api.js";
import { h } from "../../parts/dom.js";
import { bytes, count } from "../../parts/format.js";
import { empty } from "../../parts/notice.js";
import { table } from "../../parts/table.js";

// `changed` is called after a change, with an error if it was refused.
export function adapters(list, changed) {
  if (list.length === 0) return empty("No adapters", "Add a LoRA adapter with POST /v1/adapters or jethro adapter add: every replica serves it without a restart.");
  const loaded = (a) => Object.entries(a.loaded ?? {}).filter(([, n]) => n > 0).map(([pool, n]) => `${count(n)} of ${pool}`).join(", ") || "none now";
  const toggle = async (a) => {
    try {
      await patch(`v1/adapters/${encodeURIComponent(a.id)}`, { pinned: !a.pinned });
      changed(null);
    } catch (error) {
      changed(error);
    }
  };
  return table("Adapters", [
    { title: "adapter", cell: (a) => a.id, header: true },
    { title: "task", cell: (a) => a.task ?? "–" },
    { title: "call it as", cell: (a) => (a.models ?? []).join(", ") || "–" },
    { title: "replicas that hold it", cell: loaded },
    { title: "rank", cell: (a) => count(a.rank), number: true },
    { title: "size", cell: (a) => bytes(a.bytes), number: true },
    { title: "pinned", cell: (a) => h("button", { type: "button", class: "tiny", "aria-pressed": String(a.pinned), "aria-label": `${a.pinned ? "Unpin" : "Pin"} ${a.id}`, onclick: () => toggle(a) }, a.pinned ? "Pinned" : "Pin") },
  ], list);
}
