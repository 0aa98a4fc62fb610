"""The `next:` lines of commands: they run as they stand, carry the arguments just used, and fit on no test file."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from serve_app.cli.options import REGISTRY

if TYPE_CHECKING:
    from serve_app.data.dataset import Dataset
    from serve_app.routing.registry import Registry

_MEASURES: Final = frozenset({"test", "measure", "eval", "evaluation", "validation", "dev", "held_out"})
"""Names of splits and parts that nothing is fitted on."""
_TARGET: Final = "quality-drop=0.01"
_CHAIN: Final = Path("var/cascades/mine")


def say_next(*words: object, **options: object) -> None:
    """A line with a command of jethro; options that are None, False or empty are left out, True is a flag."""
    typer.echo(f"  next: {command(*words, **options)}")


def command(*words: object, **options: object) -> str:
    """The command as a shell reads it. An option of several values is repeated."""
    found = ["jethro", *map(str, words)]
    for name, value in options.items():
        flag = f"--{name.strip('_').replace('_', '-')}"
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            if one is True:
                found.append(flag)
            elif one not in (None, False, ""):
                found += [flag, str(one)]
    return shlex.join(found)


def after_collecting(found: "Dataset", out: Path, split: str, half: str, given: Mapping[str, Any]) -> None:
    """What follows a collection; `given`: its `config`, `set_`, `url` and `registry`."""
    from serve_app.grading import JUDGES, usual_metric

    if given.get("registry") == str(REGISTRY):
        given = {**given, "registry": None}

    if any(pool.quality.size and (pool.quality != pool.quality).any() for pool in found.pools.values()):
        metric, _ = usual_metric(found.references)
        judging = (
            {
                "judge": "large" if "large" in found.pools else list(found.pools)[-1],
                **_only(given, "config", "set_", "url"),
            }
            if metric in JUDGES
            else {}
        )
        say_next("data", "score", out, metric=metric, **judging)
    elif measures(found, split, half):
        if (_CHAIN / "chain.json").is_file():
            say_next("cascade", "evaluate", _CHAIN, data=out, **_only(given, "registry"))
    elif any(pool.logprobs for pool in found.pools.values()):
        say_next("cascade", "fit", data=out, split=split, target=_TARGET, **_only(given, "registry"), out=_CHAIN)
    elif len(found.pools) > 1:
        say_next("data", "split", out)


def after_comparing(kind: str, data: Path, given: Mapping[str, Any]) -> None:
    """Training of the kind that was recommended. `given`: the comparison's other options; its params by kind."""
    params = [f"{name}={value}" for name, value in given["params"].items()]
    test = data.with_name(data.name.replace(".train.", ".test."))
    leak = test if test != data and test.is_file() else None
    usual = {"weak": "small", "strong": "large"}
    names = {name: given[name] for name, value in usual.items() if given[name] != value}
    more = {"set_": params, "target": given["target"], "preferences": given["preferences"], "test": leak}
    say_next("router", "train", kind, data=data, seed=given["seed"] or None, **names, **more)


def after_registering(registry: "Registry", name: str, version: str) -> None:
    """How the version comes to serve, or is served alone."""

    other = None if registry.folder == REGISTRY else registry.folder
    if registry.current(name) != version:
        typer.echo(f"to serve it: {command('router', 'use', f'{name}@{version}', registry=other)}")
        return
    settings = [f"routing.router={name}", *([f"routing.registry={other}"] if other else [])]
    typer.echo(f"{name} serves this version: {command('serve', set_=settings)}")


def measures(found: "Dataset", split: str, half: str) -> bool:
    """Whether the queries are there to measure on."""
    part = (found.about.get("part") or {}).get("name", "")
    return half == "measure" or bool({split.lower(), str(part).lower()} & _MEASURES)


def _only(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: given.get(name) for name in names}
