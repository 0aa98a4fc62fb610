// Calls of the endpoint. Paths are relative, so that the console also works behind a proxy with a prefix.
// An error has a sentence for people. A refused key and a lost endpoint are also events, which main.js shows.

import { key, kindFor } from "./keys.js";

export class ApiError extends Error {
  constructor(sentence, status, code = null) {
    super(sentence);
    this.status = status;
    this.code = code;
  }
}

export async function get(path, options = {}) {
  return (await send("GET", path, undefined, options)).json();
}

export async function post(path, body, options = {}) {
  return (await send("POST", path, body, options)).json();
}

export async function patch(path, body) {
  return (await send("PATCH", path, body)).json();
}

// Returns the response if it is one of success, with its body still to be read. `quiet`: a refused key opens no dialog.
export async function send(method, path, body, { signal, quiet = false } = {}) {
  const headers = {};
  const secret = key(kindFor(path));
  if (secret !== null) headers.authorization = `Bearer ${secret}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", credentials: "omit", redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    document.dispatchEvent(new CustomEvent("jethro:lost"));
    throw new ApiError("The endpoint does not answer. It may be restarting, or the connection is down.", 0, "lost");
  }
  if (response.ok) return response;
  const error = await refusal(response);
  error.keyKind = response.status === 401 ? kindFor(path) : null;
  if (error.status === 401 && !quiet) {
    document.dispatchEvent(new CustomEvent("jethro:key", { detail: { kind: kindFor(path), why: error.message, method } }));
  }
  throw error;
}


async function refusal(response) {
  try {
    const { error } = await response.json();
    return new ApiError(String(error.message), response.status, error.code);
  } catch {
    const wait = response.headers.get("retry-after");
    const when = wait === null ? "" : ` Try again in ${wait} s.`;
    return new ApiError(`The endpoint answered with status ${response.status} and no explanation.${when}`, response.status);
  }
}
