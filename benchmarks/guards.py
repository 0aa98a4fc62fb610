"""Guards and the detection of personal data on labelled texts: what is found, what is found wrongly, and the time.

The texts are our own (`benchmarks/data`), half of them harmless ones that look alike. Every second one of a kind is
held out: patterns were changed after a look at the others only, and both parts are reported. Classifier guards need a
model that can judge and are not measured here.

python -m benchmarks.guards                 detection, false alarms and time, under a minute
python -m benchmarks.guards --presidio      Presidio's tier as well
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.config.guards import GuardsConfig
from serve_app.config.placement import PersonalDataConfig
from serve_app.guards.chain import Guards
from serve_app.guards.personal.detector import PersonalData

DATA = Path(__file__).parent / "data"
CHAIN = (
    {"name": "injection", "kind": "injection", "texts": ["tool"]},
    {"name": "secrets", "kind": "secrets", "texts": ["input"]},
    {
        "name": "words",
        "kind": "patterns",
        "texts": ["input"],
        "patterns": [{"category": "code", "words": ["project falcon", "bluebird"]}],
    },
)
FILL = (
    "The quarterly report says that revenue rose by 12 percent in 2024, while costs stayed at 3.4 million. A longer "
    "paragraph follows, in which nothing happens: the team met on Tuesday, drank coffee, and agreed on the next steps. "
)
LENGTHS = (100, 1_000, 4_000)
PARTS = ("dev", "held_out")


def rows_of(name: str) -> list[dict[str, Any]]:
    """The labelled texts of a file."""
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def rates(found: Iterable[tuple[bool, bool]]) -> dict[str, Any]:
    """Of (unsafe, found): detection and false-alarm rate with their 95 % intervals."""
    pairs = list(found)
    hits, unsafe = sum(f for u, f in pairs if u), sum(u for u, _ in pairs)
    alarms, safe = sum(f for u, f in pairs if not u), sum(not u for u, _ in pairs)
    result: dict[str, Any] = {"unsafe": unsafe, "found": hits, "harmless": safe, "alarms": alarms}
    result["detection"] = hits / unsafe if unsafe else None
    result["false_alarms"] = alarms / safe if safe else None
    result["detection_95"] = interval(hits, unsafe) if unsafe else None
    result["false_alarms_95"] = interval(alarms, safe) if safe else None
    return result


def interval(hits: int, n: int) -> list[float]:
    """Wilson's interval of a share at 95 %."""
    z, share = 1.959964, hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [float(max(0.0, middle - half)), float(min(1.0, middle + half))]


def guard_rates() -> list[dict[str, Any]]:
    """Each guard on its own texts."""
    config = GuardsConfig(chain=CHAIN)  # type: ignore[arg-type]
    guards = Guards(config, config.chain, PersonalDataConfig(), {})
    found = []
    for part in PARTS:
        for guard in CHAIN:
            name, (source,) = str(guard["name"]), guard["texts"]
            rows = [row for row in rows_of("guards.jsonl") if row["guard"] == name and row["part"] == part]
            hit = [any(key.startswith(f"{name}.") for key in guards.scan(r["text"], source).findings) for r in rows]
            found.append({"guard": name, "part": part, **rates(zip((r["unsafe"] for r in rows), hit, strict=True))})
    return found


def personal_rates(presidio: bool) -> list[dict[str, Any]]:
    """The detector by category: a text counts as found if its own category is; a harmless one, if any is."""
    found = []
    for tier in ("patterns", "presidio") if presidio else ("patterns",):
        personal = PersonalData(PersonalDataConfig(tier=tier), {})  # type: ignore[arg-type]
        rows = rows_of("personal_data.jsonl")
        seen = [set(personal.count([row["text"]])) for row in rows]
        for part in PARTS:
            mine = [(row["category"], names) for row, names in zip(rows, seen, strict=True) if row["part"] == part]
            kinds = list(dict.fromkeys(category for category, _ in mine if category))
            for kind in kinds:
                hits = [(True, kind in names) for category, names in mine if category == kind]
                found.append({"guard": f"{tier}: {kind}", "part": part, **rates(hits)})
            named = ("name", "location")
            every = [
                (category is not None, bool(names) if category is None else category in names)
                for category, names in mine
                if category not in named
            ]
            found.append({"guard": f"{tier}: all but name, location", "part": part, **rates(every)})
    return found


def times() -> list[dict[str, Any]]:
    """Milliseconds of CPU of one check, by length of the text, which is new in every call."""
    config = GuardsConfig(chain=(*CHAIN, {"name": "personal", "kind": "personal_data", "texts": ["input", "tool"]}))  # type: ignore[arg-type]
    guards = Guards(config, config.chain, PersonalDataConfig(), {})
    personal = PersonalData(PersonalDataConfig(), {})
    tasks: dict[str, Callable[[str], Any]] = {
        "personal data": lambda text: personal.count([text]),
        "injection and personal data (a tool's result)": lambda text: guards.scan(text, "tool"),
        "secrets, words and personal data (a request)": lambda text: guards.scan(text, "input"),
    }
    own = [row["text"] for row in rows_of("guards.jsonl")] + [row["text"] for row in rows_of("personal_data.jsonl")]
    loads: dict[str, list[str]] = {"the labelled texts": own}
    for length in LENGTHS:
        body = (FILL * (length // len(FILL) + 1))[:length]
        loads[f"prose of {length:,} characters"] = [f"{i} {body}" for i in range(200)]
        loads[f"{length:,} characters with an e-mail address and a card number"] = [
            f"{i} {body[: length // 2]} write to jane{i}@example.com, card 4111 1111 1111 1111. {body[length // 2 :]}"
            for i in range(200)
        ]
    return [
        {"what": what, "texts": load, **_timed(run, texts)}
        for load, texts in loads.items()
        for what, run in tasks.items()
    ]


def _timed(run: Callable[[str], Any], texts: Sequence[str]) -> dict[str, float]:
    for text in texts[:20]:
        run(text)
    spent = []
    for text in texts:
        started = thread_time()
        run(text)
        spent.append((thread_time() - started) * 1e3)
    return {"p50_ms": float(np.percentile(spent, 50)), "p95_ms": float(np.percentile(spent, 95))}


def text(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["guard", "part", "unsafe texts", "found, %", "95 %", "harmless look-alikes", "false alarms, %", "95 %"]

    def line(row: dict[str, Any]) -> list[object]:
        def percent(share: float | None) -> str:
            return "–" if share is None else f"{100 * share:.1f}"

        def span(pair: list[float] | None) -> str:
            return "–" if pair is None else f"{100 * pair[0]:.0f} – {100 * pair[1]:.0f}"

        part = "held out" if row["part"] == "held_out" else row["part"]
        found_, alarms = percent(row["detection"]), percent(row["false_alarms"])
        before = [row["guard"], part, row["unsafe"], found_, span(row["detection_95"])]
        return [*before, row["harmless"], alarms, span(row["false_alarms_95"])]

    speed = [[r["texts"], r["what"], r["p50_ms"], r["p95_ms"]] for r in found["times"]]
    parts = [
        "# Guards and personal data\n",
        "\n".join((__doc__ or "").split("\n\n")[1].splitlines()) + "\n",
        "## Guards\n",
        markdown(head, [line(row) for row in found["guards"]]),
        "## Personal data\n",
        "Countries US, GB, DE and FR. Names and places have no pattern: they need a pool or a spaCy model.\n",
        markdown(head, [line(row) for row in found["personal_data"]]),
        "## Time of one check\n",
        "CPU time of the thread, so that other programs on the machine do not count.\n",
        markdown(["texts", "check", "p50, ms", "p95, ms"], speed),
        one_line(found["environment"]) + "\n",
    ]
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write JSON and table."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.guards", description=__doc__.splitlines()[0])
    p.add_argument("--presidio", action="store_true", help="Presidio's tier as well; needs the extra privacy")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = p.parse_args(argv)
    found = {"environment": environment(), "guards": guard_rates(), "personal_data": personal_rates(args.presidio)}
    found["times"] = times()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "guards.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "guards.md").write_text(text(found), "utf-8")
    print(text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
