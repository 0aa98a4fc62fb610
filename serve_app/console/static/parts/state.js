// Whether the endpoint answers: a word in the bar, a banner while it does not, and a try again every few seconds.

import { fill } from "./dom.js";
import { poll } from "./poll.js";

const EVERY_MS = 10000;
const AGAIN_MS = 2000;

export function watchState(place, banner) {
  let lost = false;

  function show(kind, word, sentence) {
    place.className = `state ${kind}`;
    if (place.textContent !== word) place.textContent = word;
    banner.className = `banner ${kind}`;
    if (banner.textContent !== (sentence ?? "")) fill(banner, sentence ?? "");
    banner.hidden = sentence === null;
  }

  async function look(signal) {
    let answer;
    try {
      const response = await fetch("health/ready", { signal, cache: "no-store", credentials: "omit" });
      answer = await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      down();
      return;
    }
    const ailing = Object.entries(answer.pools ?? {}).filter(([, pool]) => !pool.ok).map(([name, pool]) => `pool ${name}: ${pool.why}`).join("; ");
    if (!answer.ok) {
      unready(`Queries cannot be answered now. ${ailing || (answer.error?.message ?? "")}`);
      return;
    }
    if (lost) {
      lost = false;
      document.dispatchEvent(new CustomEvent("jethro:back"));
    }
    if (answer.degraded) show("degraded", "degraded", `Answers come from fewer pools than there should be. ${ailing}`);
    else show("ok", "ready", null);
  }

  function down() {
    unready("The endpoint does not answer. Trying again every few seconds; nothing that you typed is lost.", "no connection");
  }

  function unready(sentence, word = "not ready") {
    lost = true;
    show("down", word, sentence);
    clearTimeout(unready.timer);
    unready.timer = setTimeout(() => polling.now(), AGAIN_MS);
  }

  place.className = "state";
  place.textContent = "connecting";
  const polling = poll(look, EVERY_MS);
  document.addEventListener("jethro:lost", () => !lost && down());
}
