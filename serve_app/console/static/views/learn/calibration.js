// Whether routers do what their calibration promised: the share of calls to the large model, and expected qualities.

import { h } from "../../parts/dom.js";
import { count, decimal, share } from "../../parts/format.js";
import { empty } from "../../parts/notice.js";
import { table } from "../../parts/table.js";

export function calibration({ routers, errors }) {
  const known = routers.filter((r) => Number.isFinite(r.expected_share));
  if (known.length === 0 && errors.length === 0) {
    return empty("Nothing to compare yet", "Once routed queries come in, their share to the large model is compared with that of the calibration data; once answers are rated (thumbs under Try, or POST /v1/feedback), so are expected qualities.");
  }
  return h("div", { class: "stack" }, known.length > 0 && table("Share to the large model, calibrated and live", [
    { title: "router", cell: (r) => r.id, header: true },
    { title: "calibrated share", cell: (r) => share(r.expected_share), number: true },
    { title: "share of recent queries", cell: (r) => share(r.share), number: true },
    { title: "difference, points", cell: (r) => (Number.isFinite(r.share) ? decimal((r.share - r.expected_share) * 100, 1) : "–"), number: true },
  ], known), errors.length > 0 && table("Calibration error by strategy, router and pool", [
    { title: "router", cell: (e) => e.router || e.strategy, header: true },
    { title: "pool", cell: (e) => e.pool },
    { title: "calibration error", cell: (e) => decimal(e.error), number: true },
    { title: "ratings", cell: (e) => count(e.ratings), number: true },
  ], errors));
}
