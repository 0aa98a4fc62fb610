"""Ports that the processes of an endpoint listen on, and those that the security page lists."""

import contextlib
import re
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.trust.endpoint import role

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
OTHER_NAMES = {"small replica": "replica of a pool", "large replica": "replica of a pool", "ray::IDLE": "idle worker"}


def listed() -> Counter[tuple[str, str]]:
    """Process and address of each row of the table, counted."""
    text = PAGE.read_text("utf-8").partition("## Ports")[2].partition("## ")[0]
    rows = re.findall(r"^\| ([\w, ]+) \| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    return Counter((name, where.strip("`")) for names, _, where in rows[1:] for name in names.split(", "))


def listening(pid: int) -> dict[int, Counter[tuple[str, str]]]:
    """By process of the endpoint that `pid` serves, its name in the table and address of each of its ports."""
    family = psutil.Process(pid).children(recursive=True)
    names = {p.pid: OTHER_NAMES.get(found := role(p), found) for p in family} | {pid: "jethro serve"}
    found: dict[int, Counter[tuple[str, str]]] = {}
    for process in (*family, psutil.Process(pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    address = connection.laddr.ip.removeprefix("::ffff:")
                    found.setdefault(process.pid, Counter())[names[process.pid], address] += 1
    return found
