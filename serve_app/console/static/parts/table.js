// A table from columns and rows; it scrolls sideways on a narrow screen, by keyboard too.

import { h } from "./dom.js";

// `columns`: [{title, cell(row), number, header}], where `header` marks the cell that names the row.
export function table(caption, columns, rows) {
  const head = h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.number && "n" }, c.title)));
  const body = rows.map((row) => h("tr", {}, columns.map((c) => {
    const props = { class: c.number && "n" };
    return c.header ? h("th", { scope: "row", ...props }, c.cell(row)) : h("td", props, c.cell(row));
  })));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "sr" }, caption), h("thead", {}, head), h("tbody", {}, body)));
}
