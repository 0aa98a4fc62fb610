// The keys that the user typed: kept for this tab, sent as a header by api.js, shown nowhere.

const NAMES = { caller: "jethro.key", admin: "jethro.admin-key" };
const memory = {};

export function key(kind) {
  try {
    return sessionStorage.getItem(NAMES[kind]) ?? memory[kind] ?? null;
  } catch {
    return memory[kind] ?? null; // storage is blocked
  }
}

export function setKey(kind, value) {
  memory[kind] = value || undefined;
  try {
    if (value) sessionStorage.setItem(NAMES[kind], value);
    else sessionStorage.removeItem(NAMES[kind]);
  } catch {
    // it holds until the page is closed
  }
  document.dispatchEvent(new CustomEvent("jethro:keys"));
}

// The operator's routes take the operator's key. Anything else takes the caller's.
export function kindFor(path) {
  return path.startsWith("v1/admin/") ? "admin" : "caller";
}
