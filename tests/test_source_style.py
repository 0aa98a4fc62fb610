"""Holds the measures of the source: short files and functions, few parameters, nothing of the machine it grew on."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6

MORE_PARAMETERS = {"serve_app/routing/artefact.py:save_registered", "serve_app/routing/registry.py:register"}
"""Functions that are excused, as `path:name`. Commands are: each option of the command line is a parameter."""

FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:home|root|Users|work|opt|mnt)/[\w.-]+"),
    "a registry's host": re.compile(
        r"\b(?:files\.python" + r"hosted\.org|py" + r"pi\.org|registry\.npm" + r"js\.org|docker\.io/library)\b"
    ),
    "unfinished work": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bsk-[A-Za-z0-9]{32,}"),
}
IN_CONTAINERS = ("deploy/", "k8s/", "serve_app/k8s/")
"""Folders whose files describe container images, where absolute paths are those of the image."""


def tracked(*suffixes: str) -> list[Path]:
    """Files that git knows or would take, where this is a checkout; otherwise all."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    names = done.stdout.splitlines() if done.returncode == 0 else [str(p.relative_to(ROOT)) for p in ROOT.rglob("*")]
    paths = [ROOT / name for name in names]
    return sorted(p for p in paths if p.is_file() and (not suffixes or p.suffix in suffixes))


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all statements within it; expressions, most of a tree, hold none and are left out."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in () if isinstance(node, ast.expr) else getattr(node, field, ()):
            yield from statements(child)


@dataclass(frozen=True)
class Module:
    """What the measures need of one file, so that each file is parsed once and its tree is not kept."""

    docstring: str | None
    classes: list[str]
    functions: list[tuple[str, int, int, ast.arguments]]
    """Name, first and last line, arguments."""
    imported: set[str]
    """Modules and names that the file imports, dotted."""


@cache
def module_of(path: Path) -> Module:
    tree = ast.parse(path.read_text("utf-8"))
    found = Module(ast.get_docstring(tree), [], [], set())
    for node in statements(tree):
        if isinstance(node, ast.ClassDef):
            found.classes.append(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.functions.append((node.name, node.lineno, node.end_lineno or node.lineno, node.args))
        elif isinstance(node, ast.Import):
            found.imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.imported.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PYTHON = [p for p in tracked(".py") if name_of(p).startswith(("serve_app/", "benchmarks/", "tests/"))]
SERVED = [p for p in PYTHON if name_of(p).startswith(("serve_app/", "benchmarks/"))]


def test_there_is_source_to_measure():
    assert len(SERVED) > 20


def test_files_are_short():
    lengths = {name_of(p): len(text_of(p).splitlines()) for p in PYTHON}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_files_are_no_fragments():
    """Contracts (`base.py`), doors (`__init__.py`) and the ground floor (beside the package's door) may be short."""
    served = [p for p in PYTHON if name_of(p).startswith("serve_app/") and p.name not in ("base.py", "__init__.py")]
    short = {name_of(p) for p in served if len(text_of(p).splitlines()) < 40 and p.parent.name != "serve_app"}
    by_name = {"serve_app/engines/vllm/parent_watchdog.py", "serve_app/orchestration/tool_process.py"}
    assert short == by_name, "modules that other processes load by their names"


def test_a_class_name_stands_for_one_thing():
    found: dict[str, list[str]] = {}
    for path in (p for p in PYTHON if name_of(p).startswith("serve_app/")):
        for name in module_of(path).classes:
            found.setdefault(name, []).append(name_of(path))
    assert len(found) > 300
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_functions_are_short():
    long = {
        f"{name_of(p)}:{first} {name}": last - first + 1
        for p in PYTHON
        for name, first, last, _ in module_of(p).functions
        if last - first + 1 > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_functions_take_few_parameters():
    many = set()
    for path in SERVED:
        if name_of(path).startswith("serve_app/cli/"):
            continue
        for function, _, _, arguments in module_of(path).functions:
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            if function == "__init__" and name_of(path).startswith("serve_app/routing/"):
                # a router's hyper-parameters, each by its name: the convention of scikit-learn's estimators
                names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
            if len([n for n in names if n not in ("self", "cls")]) > MAX_PARAMETERS:
                many.add(f"{name_of(path)}:{function}")
    assert many == MORE_PARAMETERS


def test_modules_say_what_they_give():
    silent = [name_of(p) for p in SERVED if not module_of(p).docstring]
    assert silent == []


def test_nothing_is_called_after_no_idea():
    vague = re.compile(r"(^|_)(utils?|helpers?|managers?|common|misc|base_impl)(_|$)")
    assert [name_of(p) for p in SERVED if any(vague.search(part.removesuffix(".py")) for part in p.parts)] == []


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_files_are_free_of(what):
    found = []
    for path in tracked(".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".sh", ".cfg", ".json", ""):
        if what == "a path of one machine" and name_of(path).startswith(IN_CONTAINERS):
            continue
        text = text_of(path)
        if path == Path(__file__) or not FORBIDDEN[what].search(text):
            continue  # no pattern spans lines: where the whole text has none, no line has one
        for number, line in enumerate(text.splitlines(), 1):
            if FORBIDDEN[what].search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:80]}")
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "open('/home/me/x')"),
        ("a path of one machine", 'Path("/op' + 't/wheels")'),
        ("a registry's host", "https://py" + "pi.org/simple"),
        ("unfinished work", "# TO" + "DO: later"),
        ("a private key", "sk-" + "a" * 40),
    ],
)
def test_the_patterns_find_what_they_are_for(what, text):
    assert FORBIDDEN[what].search(text)


def test_the_patterns_let_routes_pass():
    assert not FORBIDDEN["a path of one machine"].search("https://host/home/page and /health/ready")


def test_every_logger_is_named_after_its_part():
    """`logger = logging.getLogger("jethro.<part>")`.

    What runs in no replica (`jethro serve`, the controller) uses the logger that Ray Serve configures.
    """
    wrong = []
    for path in PYTHON:
        if not name_of(path).startswith("serve_app/") or "getLogger" not in text_of(path):
            continue
        if name_of(path) == "serve_app/observability/process_log.py":  # it sets up the loggers of all parts
            continue
        part = name_of(path).split("/")[1].removesuffix(".py")
        outside = name_of(path) in ("serve_app/deployments/run.py", "serve_app/deployments/scaling.py")
        name = "ray.serve" if outside else f"jethro.{part}"
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger"):
                wrong += [f"{name_of(path)}:{node.lineno}"] if ast.unparse(node.args[0]) != repr(name) else []
    assert wrong == []


OWN_ROOMS = {"benchmarks", "clients", "compat", "conformance", "deploy", "integration"}
"""Folders of tests of what is no room of serve_app, or of many rooms at once."""


def stray(path: Path) -> str | None:
    """Why a test file is in the wrong folder, or None.

    tests/a/b/test_x.py tests serve_app/a/b: x is a module or folder there, or the folder itself, or the test imports
    from there, or from what tests/a/b has for its tests.
    """
    *rooms, file = path.relative_to(ROOT / "tests").parts
    if not rooms or rooms[0] in OWN_ROOMS:
        return None
    folder, name = ROOT.joinpath("serve_app", *rooms), file.removeprefix("test_").removesuffix(".py")
    if not folder.is_dir():
        return f"no {name_of(folder)}"
    if name == folder.name or (folder / name).is_dir() or (folder / f"{name}.py").is_file():
        return None
    own = tuple(f"{package}.{'.'.join(rooms)}." for package in ("serve_app", "tests"))
    known = any(module.startswith(own) for module in module_of(path).imported)
    return None if known else f"nothing of {name_of(folder)}"


def test_tests_mirror_the_source():
    files = [p for p in PYTHON if p.name.startswith("test_")]
    assert len(files) > 200
    assert {name_of(p): why for p in files if (why := stray(p))} == {}


def test_every_package_has_tests():
    inits = [p for p in SERVED if name_of(p).startswith("serve_app/") and p.name == "__init__.py"]
    packages = {p.parent.relative_to(ROOT / "serve_app") for p in inits}
    tested = {p.parent.relative_to(ROOT / "tests") for p in PYTHON if p.name.startswith("test_")}
    missing = {p.as_posix() for p in packages if not any(t == p or p in t.parents for t in tested)}
    assert missing == set()


@pytest.mark.parametrize(
    ("where", "text", "why"),
    [
        ("nowhere/test_types.py", "", "no serve_app/nowhere"),
        ("routing/test_magic.py", "import serve_app.wire.frames", "nothing of serve_app/routing"),
        ("routing/test_magic.py", "from serve_app.routing.kinds import random", None),
        ("routing/test_registry.py", "", None),
        ("conformance/test_magic.py", "", None),
    ],
)
def test_a_test_in_the_wrong_folder_is_found(tmp_path, monkeypatch, where, text, why):
    path = tmp_path / "tests" / where
    path.parent.mkdir(parents=True)
    path.write_text(text, "utf-8")
    (tmp_path / "serve_app").symlink_to(ROOT / "serve_app")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert stray(path) == why
