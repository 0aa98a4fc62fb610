"""`jethro replay`: what another threshold or router would have made of the decisions in the log."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.decisions.source import (
    FileSource,
    LogUrlOption,
    SinceOption,
    TenantOption,
    UntilOption,
    filters,
    opened,
    parsed,
)
from serve_app.cli.options import SetOption, show_json
from serve_app.cli.progress import ProgressLine
from serve_app.cli.stored import ConfigOption, read_config
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.replay.policy import Progress


def replay(
    since: SinceOption = None,
    until: UntilOption = None,
    tenant: TenantOption = None,
    router: Annotated[
        str | None, typer.Option(help="NAME, NAME@VERSION or a folder; by default the router of the config.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="From 0 (always large) to 1; by default the router's, or the one in force.")
    ] = None,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Instead the cascade of small and large, at another --threshold.")
    ] = False,
    upcoming: Annotated[
        int | None, typer.Option("--next", min=1, help="Predict also for the next N queries; by default as many.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    url: LogUrlOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Run logged decisions through another router or threshold, before anything is changed.

    Reports the share of calls of the large model, cost and expected quality against what was served, with intervals,
    and the ratings there are. Another threshold needs the logged scores alone; another router scores kept prompts
    (store.keep_prompts). Nothing is changed and no model is called.

    \b
    Examples:
      jethro replay --since 7d --threshold 0.3 --config my.yaml
      jethro replay --since 24h --router mine --config my.yaml
      jethro replay --since 7d --cascade --threshold 0.8 --config my.yaml
      jethro replay --since 2026-11-29 --until 2026-11-30 --threshold 0.2 --next 1000 --json
    """
    from serve_app.replay.cascade import CascadePlan
    from serve_app.replay.report import AnyPlan, replay_json, replay_text
    from serve_app.replay.run import ReplayPlan, logged, recorded

    if cascade and router is not None:
        raise ConfigError("--router and --cascade name two policies: keep one")
    tree = read_config(config, set_)
    given = filters(since=since, until=until, tenant=tenant)
    routed = None if cascade else ReplayPlan.of(tree, router, threshold)
    with opened(url, tree.store.path) as source:
        if isinstance(source, FileSource):
            log = logged(Path(source.path), parsed(given), routed)
        else:
            log = recorded(record for page in source.pages(given) for record in page)
    plan: AnyPlan
    if routed is None:
        plan = fitted = CascadePlan.of(tree, log, threshold)
        result = fitted.replay(log, upcoming=upcoming)
    else:
        plan = routed
        result = routed.replay(log, upcoming=upcoming, progress=_scoring(ProgressLine()))
    if json:
        show_json(replay_json(result, plan))
    else:
        typer.echo(replay_text(result, plan))


def _scoring(line: ProgressLine) -> "Progress":
    def progress(done: int, of: int) -> None:
        line.show(lambda: f"{done:,} of {of:,} prompts scored", last=done >= of)

    return progress
