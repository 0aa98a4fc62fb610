// One streamed chat completion: text as it comes, then the decision, the usage, and what the browser measured.

import { ApiError, send } from "./api.js";
import { events } from "./sse.js";

// `onText(piece)` and `onDecision(headers)` are called on the way. Returns {text, jethro, usage, firstMs, totalMs}.
export async function complete({ model, messages, settings }, { signal, onText, onDecision }) {
  const started = performance.now();
  const body = { model, messages, ...settings, stream: true, stream_options: { include_usage: true } };
  const response = await send("POST", "v1/chat/completions", body, { signal });
  onDecision(fromHeaders(response.headers));
  const answer = { text: "", jethro: null, usage: null, firstMs: null, totalMs: null, finish: null };
  let ended = false;
  for await (const data of guarded(response)) {
    if (data === "[DONE]") {
      ended = true;
      break;
    }
    read(JSON.parse(data), answer, started, onText);
  }
  if (!ended) throw new ApiError("The answer broke off before its end.", 0, "broken");
  answer.totalMs = performance.now() - started;
  return answer;
}

// A connection that breaks in the middle is an error of ours to explain; a stop by the user is none.
async function* guarded(response) {
  try {
    yield* events(response);
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    document.dispatchEvent(new CustomEvent("jethro:lost"));
    throw new ApiError("The connection broke while the model answered.", 0, "lost");
  }
}

function read(event, answer, started, onText) {
  if (event.error) throw new ApiError(String(event.error.message), 200, event.error.code);
  answer.jethro = event.jethro ?? answer.jethro;
  answer.usage = event.usage ?? answer.usage;
  for (const choice of event.choices ?? []) {
    const piece = choice.delta?.content;
    answer.finish = choice.finish_reason ?? answer.finish;
    if (!piece) continue;
    answer.firstMs ??= performance.now() - started;
    answer.text += piece;
    onText(piece);
  }
}

function fromHeaders(headers) {
  const of = (name) => headers.get(`x-jethro-${name}`);
  const number = (name) => (of(name) === null ? null : Number(of(name)));
  return {
    decision_id: of("decision-id"), strategy: of("strategy"), pool: of("pool"), model: of("model"), score: number("score"),
    threshold: number("threshold"), warning: of("warning"), task: of("task"), adapter: of("adapter"), privacy: of("privacy"),
  };
}
