// Numbers as people read them, always with their unit. Nothing is shown as a number that is not one.

const NONE = "–";
export const NBSP = " ";

function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

export function count(value) {
  return known(value) ? Math.round(value).toLocaleString("en-US") : NONE;
}

export function share(value, digits = 1) {
  return known(value) ? `${(value * 100).toFixed(digits)}${NBSP}%` : NONE;
}

// US dollars: cents where there are any, else two significant digits however small the price of a token is.
export function usd(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  if (size === 0) return "$0";
  if (size >= 1) return `${sign}$${size.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  if (size < 1e-9) return `${sign}<$0.000000001`;
  return `${sign}$${size.toFixed(Math.max(2, 1 - Math.floor(Math.log10(size))))}`;
}

export function ms(value) {
  if (!known(value)) return NONE;
  if (value === 0) return `0${NBSP}ms`;
  if (value < 9.95) return `${value.toFixed(value < 0.995 ? 2 : 1)}${NBSP}ms`;
  if (value < 999.5) return `${Math.round(value)}${NBSP}ms`;
  return `${(value / 1000).toFixed(value < 9995 ? 2 : 1)}${NBSP}s`;
}

export function rate(value) {
  if (value === 0) return "0/s";
  return known(value) ? `${value >= 99.5 ? count(value) : value.toFixed(value < 9.95 ? 2 : 1)}/s` : NONE;
}

export function times(ratio) {
  return known(ratio) ? `${ratio.toFixed(ratio < 0.0995 ? 3 : ratio < 9.95 ? 2 : 1)}${NBSP}×` : NONE;
}

export function decimal(value, digits = 3) {
  return known(value) ? value.toFixed(digits) : NONE;
}

export function signed(value, digits = 2) {
  return known(value) ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}` : NONE;
}

export function interval(pair, show) {
  return Array.isArray(pair) && pair.length === 2 && pair.every(known) ? `${show(pair[0])} to ${show(pair[1])}` : NONE;
}

export function bytes(value) {
  if (!known(value)) return NONE;
  return value < 1e6 ? `${Math.round(value / 1e3)}${NBSP}kB` : `${(value / 1e6).toFixed(1)}${NBSP}MB`;
}

export function clock(seconds) {
  return known(seconds) ? new Date(seconds * 1000).toLocaleTimeString([], { hour12: false }) : NONE;
}

export function dateTime(seconds) {
  if (!known(seconds)) return NONE;
  return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "medium", hour12: false });
}

export function span(seconds) {
  return seconds % 60 === 0 ? `${seconds / 60}${NBSP}min` : `${seconds}${NBSP}s`;
}

export function words(name) {
  return String(name).replaceAll("_", " ");
}
