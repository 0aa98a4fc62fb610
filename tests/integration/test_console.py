"""The console in headless Chromium against the running lab application: every view, driven as a person would.

JETHRO_SCREENSHOTS names a folder that keeps the pictures; JETHRO_CONSOLE_PNG a file to write the README's picture to.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.config import load
from tests.integration.browser import NARROW, Watched, chromium, judged, picture, until, watched
from tests.integration.console_traffic import Load, ask
from tests.integration.serving import serving

pytestmark = pytest.mark.integration

CALLER, ADMIN = "caller-key-51c2e7", "admin-key-93b0d4"
KEYS = (CALLER, ADMIN)
CANARY = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
RING = """(() => {
  const focused = getComputedStyle(document.activeElement);
  const box = document.activeElement.closest('.box');
  return focused.outlineStyle !== 'none' || (box !== null && getComputedStyle(box).boxShadow.includes('1px'));
})()"""
"""Whether what has the focus shows it, by a ring of its own or by that of the box it fills."""
VIEWS = ("try", "watch", "tune", "learn")
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": NARROW, "has_touch": True, "is_mobile": True},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One endpoint for all tests of this file, with a caller's key and the operator's."""
    folder = tmp_path_factory.mktemp("console")
    tree = load("lab").model_dump(mode="json")
    tree["server"]["keys"] = [{"name": "acme", "env": "CONSOLE_TEST_KEY"}]
    tree["server"]["admin_key_env"] = "CONSOLE_TEST_ADMIN"
    tree["routing"]["registry"] = str(folder / "registry")
    tree["streams"]["folder"] = str(folder / "streams")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSOLE_TEST_KEY", CALLER)
        patch.setenv("CONSOLE_TEST_ADMIN", ADMIN)
        with serving(tree, folder) as running:
            yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("JETHRO_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def console(browser: Any, url: str) -> Iterator[Callable[..., Watched]]:
    """`console(view)`: that view, with both keys as a person would have typed them before."""
    opened = []

    def open_view(view: str, *, keys: bool = True, **options: Any) -> Watched:
        context = watched(browser, url, secrets=KEYS, **options)
        watch = context.__enter__()
        opened.append(context)
        if keys:
            for name, key in (("key", CALLER), ("admin-key", ADMIN)):
                watch.page.add_init_script(f"sessionStorage.setItem('jethro.{name}', '{key}')")
        watch.page.goto(f"{url}/console#{view}")
        return watch

    yield open_view
    for context in opened:
        context.__exit__(None, None, None)


def caller(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {CALLER}"}, timeout=60)


def test_keys_are_enforced(console: Callable[..., Watched], url: str) -> None:
    watch = console("try", keys=False)
    page = watch.page
    dialog = page.get_by_role("dialog", name="Keys")
    dialog.wait_for()
    assert "No API key given" in dialog.inner_text()
    page.get_by_label("API key", exact=True).fill("wrong-key")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_text("Incorrect API key").wait_for()
    page.get_by_label("API key", exact=True).fill(CALLER)
    page.keyboard.press("Enter")
    page.get_by_label("Your prompt").wait_for()
    assert ask(page, "what is 40 + 2?").locator(".text").inner_text() == "42"
    page.get_by_role("link", name="Watch").click()  # the caller's key is not the operator's
    dialog.wait_for()
    page.get_by_label("Admin key").fill(CALLER)
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_text("Incorrect").wait_for()
    page.get_by_label("Admin key").fill(ADMIN)
    page.keyboard.press("Enter")
    page.locator("[data-tile=Requests]").wait_for()
    page.get_by_role("button", name="Keys").click()
    page.get_by_role("button", name="Forget both").click()
    dialog.wait_for()  # the view asks again
    assert page.evaluate("sessionStorage.length") == 0
    refused = [line for line in watch.errors if "401 (Unauthorized)" in line]
    assert watch.errors == refused and refused  # the browser's own lines, and nothing else
    watch.errors.clear()


def test_an_answer_streams_and_shows_its_decision(console: Callable[..., Watched], url: str) -> None:
    page = console("try").page
    easy = ask(page, "what is 40 + 2?")
    assert easy.locator(".text").inner_text() == "42"
    assert easy.locator("header").inner_text().endswith("small · jlab-small")
    assert re.search(r"Score 0\.\d{3} < threshold 0\.\d{3}", easy.inner_text())
    hard = ask(page, "sort 52 17 88 6 34")
    assert hard.locator(".text").inner_text() == "6 17 34 52 88"
    hard.get_by_text("raised by").wait_for()
    assert re.search(r"cost\s+\$0\.0000\d+\s+first text\s+[\d.]+.(m?s)\s+total\s+[\d.]+.(m?s)", hard.inner_text())
    hard.get_by_role("button", name="Compare small and large").click()
    page.get_by_role("group", name="Which answer is better").wait_for()
    alone = page.get_by_label("Large model only").locator(".text").inner_text()
    assert alone == "6 17 34 52 88"
    page.get_by_role("button", name="Large", exact=True).click()
    page.get_by_text("Feedback stored.").wait_for()
    hard.get_by_role("button", name="Good answer").click()
    hard.get_by_text("Feedback stored.").wait_for()
    hard.get_by_role("button", name="Everything considered").click()
    dialog = page.get_by_role("dialog", name="Decision")
    dialog.get_by_text("Actions considered").wait_for()
    decision = re.search(r"\b[0-9a-f]{24}\b", dialog.inner_text())
    assert decision is not None
    with caller(url) as http:
        given = http.get(f"/v1/decisions/{decision[0]}").json()["feedback"]
    assert [(f["score"], f["preferred"]) for f in given] == [(None, "large"), (1.0, None)]


def test_the_first_text_is_shown_before_the_answer_is_whole(console: Callable[..., Watched]) -> None:
    watch = console("try")
    page = watch.page
    page.get_by_label("Your prompt").wait_for()
    page.evaluate("""() => {
      window.__lengths = [];
      new MutationObserver(() => {
        const busy = document.querySelector('article[aria-busy=true] .text');
        if (busy) __lengths.push(busy.textContent.length);
      }).observe(document.body, {childList: true, subtree: true, characterData: true});
    }""")
    whole = ask(page, "sort 52 17 88 6 34").locator(".text").inner_text()
    lengths = [n for n in page.evaluate("__lengths") if 0 < n < len(whole)]
    assert len(set(lengths)) >= 3


def test_the_keyboard_alone_is_enough(console: Callable[..., Watched]) -> None:
    page = console("try").page
    page.get_by_label("Your prompt").wait_for()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("687 + 320")
    page.keyboard.press("Enter")
    page.locator("article .thumbs").wait_for()
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    seen = []
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.get_by_role("link", name="Skip to content").focus()
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
        assert page.evaluate(RING), seen[-1]
        if seen[-1] == "Send":
            break
    wanted = ["Try", "Keys", "Good answer", "Bad answer", "Everything considered", "Your prompt", "Who answers", "Send"]
    assert [name for name in seen if name in wanted] == wanted
    page.get_by_role("button", name="Good answer").focus()
    page.keyboard.press("Space")
    page.get_by_text("Feedback stored.").wait_for()
    page.get_by_role("button", name="Everything considered").focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="Decision").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert page.evaluate(focused) == "Everything considered"


def test_numbers_move_under_load_and_decisions_are_listed(console: Callable[..., Watched], url: str) -> None:
    page = console("watch").page
    tile = page.locator("[data-tile=Requests] .sub")
    tile.wait_for()

    def counted() -> int:
        return int(tile.inner_text().split(" in ")[0].replace(",", ""))

    before = counted()
    with Load(url, CALLER):
        until(page, lambda: counted() > before + 10)
        first = tile.inner_text()
        until(page, lambda: tile.inner_text() != first)
        until(page, lambda: page.get_by_role("region", name="Last decisions").locator("tbody tr").count() > 20)
    share = page.locator("[data-tile='Share to the large model'] .value").inner_text()
    assert re.fullmatch(r"\d+\.\d.%", share)
    assert page.locator("[data-tile=Saved] .value").inner_text().startswith("$0.")
    assert page.locator("canvas").count() == 4
    page.get_by_role("combobox", name="Pool").select_option("small")
    rows = page.get_by_role("region", name="Last decisions").locator("tbody tr")
    until(page, lambda: rows.count() > 3 and all("small" in text for text in rows.all_inner_texts()))
    assert rows.count() > 3
    rows.first.get_by_role("button").click()
    dialog = page.get_by_role("dialog", name="Decision")
    dialog.get_by_text("Request", exact=True).wait_for()
    assert "acme" in dialog.inner_text()


def test_a_threshold_is_changed_followed_and_taken_back(console: Callable[..., Watched], url: str) -> None:
    page = console("tune").page
    number = page.get_by_label("Threshold, 0 (always large) to 1")
    number.wait_for()
    before = float(page.locator("#in-force").inner_text())
    page.get_by_label("Along the curve").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")  # towards always small
    assert float(number.input_value()) > before
    number.fill("0.99999")
    number.press("Tab")
    page.get_by_text("selected (1.000)").wait_for()
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("Threshold 1.0000 is in force").wait_for()
    body = {"model": "jethro", "messages": [{"role": "user", "content": "sort 52 17 88 6 34"}], "temperature": 0}
    with caller(url) as http:
        answer = http.post("/v1/chat/completions", json=body)
        assert (answer.headers["x-jethro-pool"], answer.headers["x-jethro-threshold"]) == ("small", "0.99999")
        page.get_by_role("button", name="Undo the last change").click()
        page.get_by_text("Taken back").wait_for()
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.headers["x-jethro-pool"] == "large"
    assert float(page.locator("#in-force").inner_text()) == before
    assert page.get_by_role("region", name="History of the threshold").locator("tbody tr").count() == 2


def test_streams_adapters_drift_and_calibration_are_shown(console: Callable[..., Watched], url: str) -> None:
    with caller(url) as http:
        stream = {"name": f"mood-{CANARY}", "labels": ["good", "bad"], "instruction": CANARY, "levels": ["logistic"]}
        assert http.post("/v1/streams", json=stream).status_code == 400
        assert http.post("/v1/streams", json={**stream, "name": "mood"}).status_code == 200
    page = console("learn").page
    page.locator("[data-part=streams]").get_by_text("jethro-stream-mood").wait_for()
    page.locator("[data-part=adapters]").get_by_text("jlab-small:sort").wait_for()
    page.locator("[data-part=routers]").get_by_text("complexity (default)").wait_for()
    for part in ("drift", "calibration"):
        assert page.locator(f"[data-part={part}] .loading").count() == 0
    with caller(url) as http:
        http.delete("/v1/streams/mood")
    page.locator("[data-part=streams]").get_by_text("No streams yet").wait_for()


def test_no_text_becomes_markup(console: Callable[..., Watched], url: str) -> None:
    """In prompts, answers, names and decisions: what a model says here is made up on its way to the page."""
    page = console("try").page
    page.get_by_label("Your prompt").wait_for()

    def poisoned(route: Any) -> None:
        response = route.fetch()
        body = response.text().replace("jlab-small", CANARY.replace('"', '\\"'))
        body = re.sub(r'"(reason|warning|content|task|adapter)":"[^"]*"', lambda m: f'"{m[1]}":"{_json(CANARY)}"', body)
        route.fulfill(response=response, body=body)

    page.route(re.compile(r"/v1/"), poisoned)
    page.reload()
    page.get_by_label("Your prompt").wait_for()
    card = ask(page, f"what is 40 + 2? {CANARY}")
    assert CANARY in card.inner_text()
    card.get_by_role("button", name="Everything considered").click()
    page.get_by_role("dialog").get_by_text("Request", exact=True).wait_for()
    assert CANARY in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    for view in ("watch", "tune", "learn"):
        page.goto(f"{url}/console#{view}")
        page.wait_for_timeout(1200)
    assert "owned" not in page.title()
    assert page.locator("main img, dialog img, main script").count() == 0


def _json(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def test_a_lost_endpoint_is_said_and_found_again(console: Callable[..., Watched]) -> None:
    watch = console("watch")
    page = watch.page
    page.locator("[data-tile=Requests]").wait_for()
    page.context.set_offline(True)
    page.get_by_role("alert").get_by_text("The endpoint does not answer").wait_for()
    assert page.get_by_role("status").filter(has_text="no connection").count() == 1
    page.context.set_offline(False)
    page.get_by_role("status").filter(has_text="ready").wait_for()
    page.locator("#lost").wait_for(state="hidden")
    page.locator("[data-tile=Requests]").wait_for()
    assert all("net::ERR" in line for line in watch.errors)  # the browser's own lines on a lost connection
    watch.errors.clear()


def test_errors_are_sentences(console: Callable[..., Watched]) -> None:
    watch = console("try")
    page = watch.page
    page.get_by_label("Your prompt").wait_for()
    page.get_by_text("Settings").click()
    page.get_by_label("Most tokens to write").fill("99999999")
    page.get_by_label("Your prompt").fill("what is 40 + 2?")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("max_tokens").wait_for()
    assert all("400 (Bad Request)" in line for line in watch.errors) and watch.errors
    watch.errors.clear()


@pytest.mark.parametrize("look", LOOKS)
def test_every_view_is_accessible_and_pictured(
    console: Callable[..., Watched], url: str, pictures: Path, look: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with Load(url, CALLER):
        page = console("try", **LOOKS[look]).page
        page.get_by_label("Your prompt").wait_for()
        page.screenshot(path=pictures / f"welcome-{look}.png")
        judged(axe, page, "welcome")
        ask(page, "what is 40 + 2?")
        hard = ask(page, "sort 52 17 88 6 34")
        hard.get_by_role("button", name="Compare small and large").click()
        page.get_by_role("group", name="Which answer is better").wait_for()
        hard.locator("summary").click()
        for view in VIEWS:
            page.evaluate(f"location.hash = '{view}'")
            page.locator(f"[data-view={view}][aria-current=page]").wait_for()
            until(page, lambda: page.locator("main .loading").count() == 0)
            page.wait_for_timeout(300)
            picture(page, pictures / f"{view}-{look}.png")
            judged(axe, page, view)
            # a phone widens its window to what does not fit: its width is that of the device
            overflow = page.evaluate("document.documentElement.scrollWidth") - page.viewport_size["width"]
            assert overflow <= 0, f"{view} is {overflow} px too wide"
        page.evaluate("location.hash = 'watch'")
        page.get_by_role("region", name="Last decisions").locator("tbody button").first.click()
        page.get_by_role("dialog").get_by_text("Request", exact=True).wait_for()
        page.screenshot(path=pictures / f"decision-{look}.png")
        judged(axe, page, "decision")


def test_the_picture_of_the_readme(console: Callable[..., Watched], pictures: Path) -> None:
    page = console("try", device_scale_factor=1.5, viewport={"width": 1120, "height": 690}).page
    page.get_by_label("Side by side").check()
    ask(page, "sort 52 17 88 6 34")
    page.get_by_role("group", name="Which answer is better").wait_for()
    page.get_by_text("raised by").wait_for()
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=pictures / "readme.png")
    if target := os.environ.get("JETHRO_CONSOLE_PNG"):
        shutil.copy(pictures / "readme.png", target)
