"""A headless Chromium for tests of pages: found or explained, and watched for errors and for foreign requests."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1280, "height": 860}
VIOLATIONS = """
window.__violations = [];
addEventListener("securitypolicyviolation", (e) => __violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright's on the system's Chromium, or the test is skipped and says what is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (make .venv/.dev)")
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, and what must not happen on it. `page` is Playwright's."""

    page: Any
    url: str
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    with_key_in_url: list[str] = field(default_factory=list)
    secrets: tuple[str, ...] = ()

    def check(self) -> None:
        """No error, no violation of the policy, no request elsewhere, no key where it does not belong."""
        assert self.errors == []
        assert self.foreign == []
        assert self.with_key_in_url == []
        assert self.page.evaluate("window.__violations") == []
        shown = self.page.content() + self.page.evaluate("JSON.stringify(localStorage) + location.href")
        assert [secret for secret in self.secrets if secret in shown] == []


@contextmanager
def watched(browser: Any, url: str, *, secrets: tuple[str, ...] = (), **options: Any) -> Iterator[Watched]:
    """A page in a context of its own. A status of refusal that a test provokes is its own: see `expecting`."""
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
    page = context.new_page()
    page.set_default_timeout(15_000)
    watch = Watched(page, url, secrets=secrets)
    page.add_init_script(VIOLATIONS)
    page.on("console", lambda m: watch.errors.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: watch.errors.append(str(e)))
    page.on("request", lambda r: watch.foreign.append(r.url) if not r.url.startswith((url, "data:")) else None)
    page.on("request", lambda r: watch.with_key_in_url.extend(s for s in secrets if s in r.url))
    try:
        yield watch
        watch.check()
    finally:
        context.close()


def until(page: Any, holds: Callable[[], bool], limit_s: float = 15) -> None:
    """Wait for something to hold. Playwright's own wait evaluates text as code, which the page's policy forbids."""
    for _ in range(int(limit_s * 20)):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it does not come to hold")


def picture(page: Any, path: Path) -> None:
    """The whole page in a window as tall as it is: bars that stick to the window's edges are where they belong."""
    size = page.viewport_size
    page.evaluate("scrollTo(0, 0)")
    page.set_viewport_size({**size, "height": min(3000, page.evaluate("document.body.scrollHeight"))})
    page.screenshot(path=path)
    page.set_viewport_size(size)


def judged(axe: Any, page: Any, what: str) -> None:
    """No finding that axe calls serious or critical."""
    found = axe.run(page).response["violations"]
    bad = [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in found if v["impact"] in ("serious", "critical")]
    assert bad == [], what
