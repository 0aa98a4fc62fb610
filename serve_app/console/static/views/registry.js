// The views, in the order of the tabs. A further one, such as promises and budgets, is a line here and a folder.

import { LearnView } from "./learn/view.js";
import { TryView } from "./try/view.js";
import { TuneView } from "./tune/view.js";
import { WatchView } from "./watch/view.js";

// A view has `element`, `open()` when it is shown, and `close()` when it is left.
export const VIEWS = [
  { id: "try", title: "Try", View: TryView },
  { id: "watch", title: "Watch", View: WatchView },
  { id: "tune", title: "Tune", View: TuneView },
  { id: "learn", title: "Learn", View: LearnView },
];
