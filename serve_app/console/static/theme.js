// Sets the chosen theme before the page is drawn, so that it does not flash. The choice is no secret: it is kept.
(() => {
  let chosen = "system";
  try {
    chosen = localStorage.getItem("jethro.theme") ?? "system";
  } catch {
    // storage is blocked: the system's setting holds
  }
  document.documentElement.dataset.theme = ["light", "dark"].includes(chosen) ? chosen : "system";
})();
