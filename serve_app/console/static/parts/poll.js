// Runs a task at once and then again and again, while the page is visible; one that fails waits longer each time.

const LONGEST_MS = 15000;

// Returns {now, stop}. The task gets an AbortSignal and may throw.
export function poll(task, everyMs) {
  let timer = null, running = null, failures = 0, stopped = false;

  async function step() {
    clearTimeout(timer);
    if (stopped || document.hidden) return;
    running?.abort();
    const own = (running = new AbortController());
    try {
      await task(own.signal);
      failures = 0;
    } catch (error) {
      if (error.name !== "AbortError") failures += 1;
    }
    if (!stopped && own === running) timer = setTimeout(step, failures ? Math.min(LONGEST_MS, everyMs * 2 ** failures) : everyMs);
  }

  document.addEventListener("visibilitychange", step);
  step();
  return {
    now: step,
    stop() {
      stopped = true;
      clearTimeout(timer);
      running?.abort();
      document.removeEventListener("visibilitychange", step);
    },
  };
}
