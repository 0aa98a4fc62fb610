"""`jethro init`: a config for two models of one's own, checked live, with the commands that come next."""

import asyncio
import json
import re
import shlex
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from serve_app.cli.options import say
from serve_app.errors import ConfigError, JethroError, writing

if TYPE_CHECKING:
    from serve_app.config.pools import PoolConfig

_ENV: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_PRICES: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*")
_WHAT: Final = {"small": "the small, cheap model", "large": "the large model"}
_MODEL = "base URL of an OpenAI-compatible server, or a Hugging Face id or folder to run here."
_ID = "model id, where its server has several."
_KEY = "environment variable that holds its key."
_PRICE = "US dollars per million input and output tokens: 0.1,0.4."


@dataclass(frozen=True)
class _Wish:
    """What is known of one pool: flags first, then answers."""

    name: str
    model: str = ""
    """A URL, or what an engine here runs."""
    id: str = ""
    key_env: str | None = None
    price: str | None = None

    @property
    def remote(self) -> bool:
        return "://" in self.model


@dataclass(frozen=True)
class _Draft:
    """One pool as it is written: the settings that are not defaults."""

    name: str
    model: str
    engine: dict[str, Any]
    price: tuple[float, float] | None
    gpus: int = 0


def init(
    out: Annotated[Path, typer.Argument(metavar="[FILE]", help="The config to write.")] = Path("my.yaml"),
    small: Annotated[str, typer.Option(help=f"The small model: {_MODEL}")] = "",
    large: Annotated[str, typer.Option(help=f"The large model: {_MODEL}")] = "",
    small_model: Annotated[str, typer.Option(help=f"The small model's {_ID}")] = "",
    large_model: Annotated[str, typer.Option(help=f"The large model's {_ID}")] = "",
    small_key_env: Annotated[str | None, typer.Option(help=f"The small model's {_KEY}")] = None,
    large_key_env: Annotated[str | None, typer.Option(help=f"The large model's {_KEY}")] = None,
    small_price: Annotated[str | None, typer.Option(help=f"The small model's {_PRICE}")] = None,
    large_price: Annotated[str | None, typer.Option(help=f"The large model's {_PRICE}")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Your prompts, for the commands that come next.")] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Call both servers, a few tokens each.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write a config for two models of your own; on a terminal, what no option gives is requested.

    Both servers are called: the model is found where a server has one, and what each supports is written down. Keys
    stay in environment variables; the file holds their names.

    \b
    Examples:
      jethro init
      jethro init --small http://127.0.0.1:8101/v1 --large http://127.0.0.1:8102/v1 --prompts mine.jsonl
      jethro init my.yaml --small Qwen/Qwen3-4B-Instruct-2507 --large https://api.example.com/v1 \\
        --large-model big-1 --large-key-env BIG_KEY --large-price 1.25,10
    """
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists already; give another name, or --force to overwrite it")
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{out}: give a name that ends in .yaml")
    if prompts is not None and not prompts.is_file():
        raise ConfigError(f"--prompts {prompts}: no such file")
    wishes = (
        _Wish("small", small, small_model, small_key_env, small_price),
        _Wish("large", large, large_model, large_key_env, large_price),
    )
    terminal = sys.stdin.isatty() and not all(wish.model for wish in wishes)
    drafts = [_drafted(wish, terminal, check) for wish in wishes]
    drafts = _distinct(drafts)
    if terminal and prompts is None:
        prompts = _typed_prompts()
    _write(out, drafts)
    _say_next(out, prompts)


def _drafted(wish: _Wish, terminal: bool, check: bool) -> _Draft:
    """The pool of a wish; on a terminal, a mistake is shown and the question comes again."""
    while True:
        try:
            answered = _typed(wish, check) if terminal else wish
            if not answered.model:
                raise ConfigError(f"--{wish.name} is missing: give the {_MODEL}")
            draft = _remote(answered, terminal, check) if answered.remote else _local(answered)
        except JethroError as error:
            if not terminal:
                raise
            typer.secho(f"{error}", fg="red", err=True)
            continue
        return draft


def _typed(wish: _Wish, check: bool) -> _Wish:
    """The wish with what is missing, as typed."""
    if not wish.model:
        typer.echo(f"\n{_WHAT[wish.name]}: {_MODEL}")
        wish = replace(wish, model=typer.prompt("  URL or id").strip())
    if wish.remote and wish.key_env is None:
        question = "  environment variable that holds its key (its name; Enter: none)"
        wish = replace(wish, key_env=typer.prompt(question, default="", show_default=False).strip())
    if wish.remote and not wish.id and not check:
        wish = replace(wish, id=typer.prompt("  model id").strip())
    if wish.price is None:
        question = "  US dollars per million input, output tokens, as 0.1,0.4 (Enter: unknown)"
        wish = replace(wish, price=typer.prompt(question, default="", show_default=False))
    return wish


def _prices(wish: _Wish) -> tuple[float, float] | None:
    if not wish.price:
        return None
    if (found := _PRICES.fullmatch(wish.price)) is None:
        raise ConfigError(f"--{wish.name}-price {wish.price}: {_PRICE}")
    return float(found[1]), float(found[2])


def _local(wish: _Wish) -> _Draft:
    """A model that an engine here runs: vLLM where it is installed, transformers otherwise."""
    price = _prices(wish)
    if wish.key_env or wish.id:
        raise ConfigError(f"--{wish.name} {wish.model}: a model that runs here takes no model id and no key")
    path = Path(wish.model).expanduser()
    if wish.model.startswith((".", "/", "~")) and not (path / "config.json").is_file():
        raise ConfigError(f"--{wish.name} {wish.model}: no folder of a Hugging Face model (config.json) is there")
    engine = "vllm" if find_spec("vllm") is not None else "transformers"
    if find_spec(engine) is None:
        raise ConfigError(
            f'--{wish.name} {wish.model}: to run models here, pip install "jethro[vllm]" (GPU) or '
            '"jethro[transformers]"; for a server give its URL with http:// or https://'
        )
    say(f"{wish.name}: {wish.model} is run here by {engine}")
    return _Draft(wish.name, path.name, {"kind": engine, "path": wish.model}, price, int(engine == "vllm"))


def _remote(wish: _Wish, terminal: bool, check: bool) -> _Draft:
    """An upstream, called if `check`: its model where it has one, and what it supports."""
    price = _prices(wish)
    if wish.key_env and not _ENV.fullmatch(wish.key_env):  # perhaps the key itself: it is not repeated
        raise ConfigError(f"--{wish.name}-key-env: give the NAME of an environment variable (A-Z, 0-9, _), not a key")
    if not check:
        if not wish.id:
            raise ConfigError(f"--{wish.name}-model is missing: with --no-check the server is not requested to name it")
        return _Draft(wish.name, wish.id, _engine(wish), price)
    from serve_app.pools.inspection import check_upstream

    pool = _pool(wish)
    url = pool.engine.urls[0]  # type: ignore[union-attr]
    if not wish.id:
        wish = replace(wish, id=_chosen(wish, pool, url, terminal))
        pool = _pool(wish)
    report = asyncio.run(check_upstream(wish.name, pool, url, explore=True))
    if refused := [finding for finding in report.findings if finding.refused]:
        raise ConfigError("\n".join(f"{finding.url}: {finding.problem}; {finding.fix}" for finding in refused))
    offered = {name: report.supports.get(name, False) for name in ("logprobs", "guided", "tools")}
    for finding in report.findings:
        if finding.key.rpartition(".")[2] not in offered:
            say(f"note: {finding.problem}; {finding.fix}")
    having = [name for name, yes in offered.items() if yes]
    answer = "" if report.answer_s is None else f" answered in {report.answer_s:.2f} s"
    say(f"{wish.name}: {wish.id}{answer}; supports {', '.join(having) or 'plain answers alone'}")
    engine = _engine(wish) | offered
    if report.max_context_tokens:
        engine["max_context_tokens"] = report.max_context_tokens
    return _Draft(wish.name, wish.id, engine, price)


def _chosen(wish: _Wish, pool: "PoolConfig", url: str, terminal: bool) -> str:
    """The model of a server that was not named: its only one, or the one that is typed."""
    from serve_app.pools.inspection import list_models

    try:
        listed = asyncio.run(list_models(wish.name, pool, url))
    except JethroError as error:
        raise ConfigError(f"--{wish.name} {url}: {error}; start the server, or correct the URL") from error
    if len(listed) == 1:
        return listed[0]
    if not terminal:
        has = f"has several: {', '.join(listed[:20])}" if listed else "lists none"
        raise ConfigError(f"--{wish.name}-model is missing: which model of {url}? It {has}")
    if listed:
        typer.echo(f"  models: {', '.join(listed)}")
    return str(typer.prompt("  model id")).strip()


def _engine(wish: _Wish) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "openai", "urls": [wish.model]}
    return found | ({"api_key_env": wish.key_env} if wish.key_env else {})


def _pool(wish: _Wish) -> "PoolConfig":
    """To be called with. Raises ConfigError for a URL that is none, and for a variable that is not set."""
    from pydantic import ValidationError

    from serve_app.config import secret
    from serve_app.config.pools import PoolConfig

    if wish.key_env:
        secret(wish.key_env, used_by=f"--{wish.name}-key-env")
    try:
        return PoolConfig.model_validate(
            {"model": wish.id or "unknown", "engine": {**_engine(wish), "logprobs": False}}
        )
    except ValidationError as e:
        raise ConfigError(f"--{wish.name} {wish.model}: {e.errors()[0]['msg'].removeprefix('Value error, ')}") from e


def _distinct(drafts: list[_Draft]) -> list[_Draft]:
    """Pools of one model id get ids of their own: callers name models by them."""
    if drafts[0].model != drafts[1].model:
        return drafts
    if drafts[0].engine == drafts[1].engine:
        raise ConfigError(f"small and large are the same model, {drafts[0].model}: give two")
    return [
        replace(d, model=f"{d.model}-{d.name}", engine=d.engine | {"upstream_model": d.model})
        if d.engine["kind"] == "openai"
        else replace(d, model=f"{d.model}-{d.name}")
        for d in drafts
    ]


def _typed_prompts() -> Path | None:
    """A file that exists, or None."""
    typer.echo('\nyour prompts, to train a router on: JSON lines, {"prompt": "...", "reference": "the right answer"}')
    while typed := str(typer.prompt("  file (Enter: later)", default="", show_default=False)).strip():
        if Path(typed).expanduser().is_file():
            return Path(typed).expanduser()
        typer.secho(f"{typed}: no such file", fg="red", err=True)
    return None


_HEAD = """\
# Jethro: one OpenAI-compatible endpoint in front of two models. Written by `jethro init`.
# Every key with its default: docs/reference-config.md, or `jethro config show {file}`.
pools:
"""
_TAIL = """
# Trained routers, with the one that serves; see `jethro router list`.
routing:
  registry: var/routers
  # strong_share: 0.5         # instead of the router's own threshold: this share of queries to the large model

# The endpoint. Beyond localhost callers need keys: host: 0.0.0.0 and
# keys: [{name: team, env: TEAM_KEY}]: the variable TEAM_KEY holds the key.
server:
  host: 127.0.0.1
  port: 8000

# What was decided, in SQLite. With keep_prompts a router can be trained again on real traffic.
store:
  path: var/jethro.sqlite3
  keep_prompts: false
"""


def _write(out: Path, drafts: list[_Draft]) -> None:
    """The file, whole and valid, or not at all; for the owner alone where a URL may hold a key."""
    from serve_app.config import check_file
    from serve_app.files import write_whole
    from serve_app.front.settings import write_private

    text = _HEAD.format(file=out) + "".join(map(_pool_text, drafts)) + _TAIL
    private = any("?" in url for draft in drafts for url in draft.engine.get("urls", ()))
    draft = out.with_name(f".{out.stem}-draft{out.suffix}")
    with writing(out, "make room, or give another name"):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_private(draft, text)
            check_file(str(draft))
        finally:
            draft.unlink(missing_ok=True)
        if private:
            write_private(out, text)
        else:
            write_whole(out, text.encode())


def _pool_text(draft: _Draft) -> str:
    lines = [f"  {draft.name}:{'':<6}# {_WHAT[draft.name]}", f"    model: {_scalar(draft.model)}", "    engine:"]
    notes = {
        "api_key_env": "the environment variable that holds the key",
        "logprobs": "log-probabilities, for cascades",
        "guided": "response_format",
    }
    for key, value in draft.engine.items():
        note = f"  # {notes[key]}" if key in notes else ""
        lines.append(f"      {key}: {_scalar(value)}{note}")
    if draft.gpus:
        lines.append(f"    resources: {{num_gpus: {draft.gpus}}}")
    price = draft.price or (0.0, 0.0)
    unknown = "" if draft.price else "  # put yours here: what a router saves follows from it"
    lines.append(f"    price: {{input_usd_per_million: {price[0]:g}, output_usd_per_million: {price[1]:g}}}{unknown}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """JSON is YAML; plain words stay plain."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and value.lower() not in _WORDS
    return value if plain else json.dumps(value, ensure_ascii=False)


_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def _say_next(out: Path, prompts: Path | None) -> None:
    file = shlex.quote(str(out))
    typer.echo(f"\n{out} is written. Next:")
    if prompts is not None:
        typer.echo(f"  jethro config check {file}")
        typer.echo(f"  jethro tune --config {file} --prompts {shlex.quote(str(prompts))}")
        typer.echo(f"  jethro serve {file}")
        return
    typer.echo(f"  jethro config check {file}")
    typer.echo(f"  jethro serve {file}")
    typer.echo('  jethro chat "Say hello."          (from a second terminal)')
    typer.echo(f"and with prompts of yours: jethro tune --config {file} --prompts FILE")
