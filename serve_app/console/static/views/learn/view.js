// Learn: the streams of the online cascade, drift of the routers, their calibration, and adapters.

import { get } from "../../parts/api.js";
import { fill, h } from "../../parts/dom.js";
import { empty, failed, loading } from "../../parts/notice.js";
import { poll } from "../../parts/poll.js";
import { adapters } from "./adapters.js";
import { calibration } from "./calibration.js";
import { drift, routers } from "./drift.js";
import { streams } from "./streams.js";

const EVERY_MS = 5000;

// Each part comes and fails by itself: what is off says how to turn it on.
const data = (path) => async (read) => (await read(path)).data;
const PARTS = [
  { id: "streams", title: "Streams", note: "of your key", from: data("v1/streams"), draw: streams },
  { id: "routers", title: "Routers", note: "in service", from: data("v1/routers"), draw: routers },
  { id: "drift", title: "Drift", note: "recent queries against the calibration data", from: data("v1/routers"), draw: drift },
  { id: "calibration", title: "Calibration", note: "what was expected against what came", from: expectations, draw: calibration },
  { id: "adapters", title: "Adapters", note: "of all models", from: data("v1/adapters"), draw: adapters },
];

async function expectations(read) {
  const [routers, live] = await Promise.all([read("v1/routers"), read("v1/admin/live", { quiet: true })]);
  return { routers: routers.data, errors: live.calibration };
}

export class LearnView {
  constructor() {
    this.cards = PARTS.map((part) => ({ ...part, place: h("div", {}, loading(part.title.toLowerCase())), shown: null }));
    this.said = h("p", { role: "status", class: "sr" });
    this.element = h("div", { class: "stack" },
      h("div", { class: "head" }, h("div", {}, h("h1", {}, "Learn"), h("p", {}, "What learns from traffic, how far it got, and whether the traffic has changed."))),
      this.cards.map((c) => h("section", { class: "card", "data-part": c.id }, h("header", {}, h("h2", {}, c.title), h("span", { class: "muted" }, c.note)), c.place)), this.said);
  }

  open() {
    this.off = new Set();
    this.polling = poll((signal) => this.step(signal), EVERY_MS);
  }

  close() {
    this.polling?.stop();
  }

  async step(signal) {
    const calls = new Map();
    const read = (path, options) => calls.get(path) ?? calls.set(path, get(path, { signal, ...options })).get(path);
    await Promise.all(this.cards.filter((card) => !this.off.has(card.id)).map((card) => this.load(card, read)));
  }

  async load(card, read) {
    try {
      const found = await card.from(read);
      const now = JSON.stringify(found);
      if (now === card.shown) return; // nothing moves under the reader
      card.shown = now;
      fill(card.place, card.draw(found, (error) => this.changed(card, error)));
    } catch (error) {
      if (error.name === "AbortError" || error.code === "lost") throw error;
      card.shown = null;
      if (error.status === 404) {
        this.off.add(card.id); // not enabled: it stays so until a restart
        fill(card.place, empty("Not enabled", error.message));
      } else {
        fill(card.place, failed(error, () => this.polling.now()));
        throw error;
      }
    }
  }

  changed(card, error) {
    card.shown = null;
    this.said.textContent = error ? error.message : "Changed.";
    if (error) card.place.prepend(failed(error));
    else this.polling.now();
  }
}
