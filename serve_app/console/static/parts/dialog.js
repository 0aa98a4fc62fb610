// Modal dialogs on the browser's own element: focus is kept inside, Escape closes, focus returns to where it was.

import { h } from "./dom.js";

let number = 0;

// Opens at once. Returns {body, close}.
export function openDialog(title, ...content) {
  const id = `dialog-${(number += 1)}`;
  const body = h("div", { class: "body" }, content);
  const dialog = h("dialog", { "aria-labelledby": id },
    h("div", { class: "bar" }, h("h2", { id }, title), h("button", { type: "button", class: "quiet tiny", onclick: () => dialog.close() }, "Close")),
    body);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return { body, close: () => dialog.close(), dialog };
}
