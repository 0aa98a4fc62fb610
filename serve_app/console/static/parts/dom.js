// Elements from values. Text is always a text node: nothing that a model, a caller or a config says becomes markup.

const SVG = "http://www.w3.org/2000/svg";

// h("p", {class: "x", onclick: f, "aria-label": "y"}, "text", child, [children], null)
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) set(element, name, value);
  element.append(...flat(children));
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") element[name] = value;
  else element.setAttribute(name, value === true ? "" : String(value));
}

function flat(children) {
  return children.flat(3).filter((child) => child !== null && child !== undefined && child !== false);
}

export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

// Icons as paths of a 24-unit square; always next to a text or a label.
const ICONS = {
  try: "M4 5h16v11H9l-5 4z",
  watch: "M3 12h4l3-8 4 16 3-8h4",
  tune: "M4 7h9m5 0h2M4 17h2m5 0h9M13 4v6M6 14v6",
  learn: "M12 4 2 9l10 5 10-5zM6 11.5V17c2 2 10 2 12 0v-5.5",
  up: "M7 21H3V10h4m0 11h10l3-8V10h-6l1-7-2-1-6 8z",
  down: "M7 3H3v11h4M7 3h10l3 8v3h-6l1 7-2 1-6-8z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2m0 16v2M2 12h2m16 0h2M5 5l1.500 1.500m11 11L19 19M5 19l1.500-1.500m11-11L19 5",
  moon: "M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10",
  system: "M3 4h18v12H3zM8 20h8m-4-4v4",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linejoin": "round", "stroke-linecap": "round", "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
