"""Two endpoints that run at the same time, measured in turn in short rounds: whatever else the machine does meets both.

Each is measured twice a round, in the orders a b b a and b a a b by turns, since an endpoint is faster right after it
was measured. A ratio is of one round; the ratio of the two measurements of one says how much of a difference is noise.
The CPU time of an answer, of all processes of an endpoint, hardly depends on what else the machine does.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.gateway.rounds import Target
from benchmarks.gateway.wrk import Load, wrk
from benchmarks.process import Server
from benchmarks.stats import median, percentile
from benchmarks.table import markdown


@dataclass(slots=True)
class Compared:
    """One case at one concurrency: answers per second, and CPU time of an answer in ms, two of each a round.

    `names`: of the endpoint that is judged, and of the one that it is compared with.
    """

    case: str
    concurrency: int
    names: tuple[str, str]
    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    errors: int = 0

    @property
    def ratios(self) -> list[float]:
        """Answers of the judged as a part of the other's, by round."""
        judged, other = self.names
        return ratios(self.rates[judged], self.rates[other])


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The sum of a round's two measurements, as a part of the other's."""
    pairs = zip(_pairs(above), _pairs(below), strict=True)
    return [sum(one) / sum(other) for one, other in pairs]


def noise(values: Sequence[float]) -> list[float]:
    """The second measurement of a round, as a part of the first."""
    return [second / first for first, second in _pairs(values)]


def _pairs(values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(values[::2], values[1::2], strict=True))


def one_round(
    cell: Compared, one: tuple[Target, Server], other: tuple[Target, Server], turn: int, seconds: float
) -> None:
    """Each twice, in an order that changes from round to round."""
    first, second = (one, other) if turn % 2 == 0 else (other, one)
    for target, server in (first, second, second, first):
        before = cpu_s(server)
        load: Load = wrk(target.completions, cell.concurrency, seconds, target.body(cell.case))
        cell.cpu_ms.setdefault(target.name, []).append((cpu_s(server) - before) / max(1, load.requests) * 1e3)
        cell.errors += load.errors
        cell.rates.setdefault(target.name, []).append(load.per_second)
    line = ", ".join(f"{name} {rates[-2]:,.0f} {rates[-1]:,.0f}" for name, rates in cell.rates.items())
    print(f"  round {turn + 1}  {cell.case}: {line} a second", flush=True)


def cpu_s(server: Server) -> float:
    """CPU seconds so far of the processes of an endpoint; Ray's, HAProxy's and the replicas' are its children."""
    used = 0.0
    root = psutil.Process(server.pid)
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def tables(cells: Sequence[Compared]) -> str:
    """Answers per second and CPU time of an answer; a ratio above 1 is in favour of the one that is judged."""
    judged, other = cells[0].names
    head = [judged, other, "ratio", "quartiles", f"{other} again / first", "quartiles of these"]
    rates = [_row(cell, cell.rates, cell.ratios) for cell in cells]
    cpu = [_row(cell, cell.cpu_ms, ratios(cell.cpu_ms[other], cell.cpu_ms[judged])) for cell in cells]
    return f"{markdown(['answers per second', *head], rates)}\n{markdown(['CPU time of an answer, ms', *head], cpu)}"


def _row(cell: Compared, values: dict[str, list[float]], found: Sequence[float]) -> list[object]:
    judged, other = cell.names
    again = noise(values[other])
    return [
        *(f"{cell.case}, {cell.concurrency} at once", median(values[judged]), median(values[other])),
        *(f"{median(found):.3f}", _quartiles(found), f"{median(again):.3f}", _quartiles(again)),
    ]


def _quartiles(values: Sequence[float]) -> str:
    return f"{percentile(values, 25):.3f} to {percentile(values, 75):.3f}"
