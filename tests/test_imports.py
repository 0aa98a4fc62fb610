"""Holds the direction of imports, read from the source, and that importing the package stays light.

deployments -> api -> strategies -> learning, pools, engines -> types, errors, config; the command line on top.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "serve_app"

LAYERS = {
    "errors": 0,
    "replies": 0,
    "types": 0,
    "config": 1,
    "store": 2,
    "pools": 2,
    "engines": 2,
    "lab": 2,
    "observability": 2,
    "autoscaling": 2,
    "learning": 3,
    "strategy": 3,
    "routing": 4,
    "cascade": 4,
    "api": 5,
    "deployments": 6,
    "k8s": 6,
    "cli": 7,
}
"""Part of the package to its layer; imports go to the same layer or a lower one. A new part must be put here."""

TRAINING = {
    f"serve_app.learning.{name}"
    for name in (
        *("artefacts", "comparison", "comparison_report", "evaluation", "lab_router", "plots", "recommendation"),
        *("refresh", "report", "resampling", "source", "training"),
        *("answering", "asked", "calls", "cascade_recording", "collect", "importing", "journal", "overview", "prompts"),
    )
}
"""Modules that train and measure routers: they stand above the strategies, and nothing that serves imports them."""
TRAINING_LAYER = 5

FOREIGN = {
    "ray": {"deployments"},
    "fastapi": {"api", "deployments"},
    "starlette": {"api", "deployments", "engines"},
    "torch": {"engines", "lab", "learning", "cascade"},
    "transformers": {"engines", "lab", "learning", "cascade"},
    "vllm": {"engines"},
    "sklearn": {"learning", "routing", "lab", "cascade"},
    "typer": {"cli"},
    "pyarrow": {"learning"},
}
"""Who alone may import it."""


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands, what it names, and whether it runs when the module is imported."""

    file: str
    line: int
    importer: str
    module: str
    at_import: bool

    @property
    def part(self) -> str:
        return part_of(self.importer)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def part_of(module: str) -> str:
    """`serve_app.gateway.catalogue` is in `routing`; the package's own top is ''."""
    return module.partition(".")[2].partition(".")[0]


def layer_of(module: str) -> int:
    return TRAINING_LAYER if module in TRAINING else LAYERS[part_of(module)]


def walk(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Import statements; those for type checkers are left out of nothing but `at_import`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_import
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        yield from walk(child, at_import and not inside and not typing_only)


def imports_of(path: Path, root: Path = ROOT) -> list[Import]:
    """Every import of a file, relative ones resolved."""
    name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node, at_import in walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            modules = [f"{base}.{alias.name}" for alias in node.names] if base == "serve_app" else [base]
        found += [Import(str(path.relative_to(root)), node.lineno, name, m, at_import) for m in modules]
    return found


def all_imports() -> list[Import]:
    return [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)]


def test_every_part_has_a_layer():
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.rglob("*.py")))}
    assert parts - {"__init__"} <= set(LAYERS)


def test_imports_go_down():
    ours = [i for i in all_imports() if re.match(r"serve_app\.[a-z]", i.module) and i.part]
    assert len(ours) > 50
    assert [str(i) for i in ours if layer_of(i.module) > layer_of(i.importer)] == []


def test_nothing_that_serves_imports_what_trains():
    users = {i.importer for i in all_imports() if i.module in TRAINING}
    assert users
    assert {u for u in users if u not in TRAINING and part_of(u) != "cli"} == set()


def test_the_strategies_do_not_know_engines_and_learning_is_not_served():
    forbidden = {("routing", "engines"), ("api", "engines"), ("api", "learning"), ("pools", "store")}
    assert [str(i) for i in all_imports() if (i.part, part_of(i.module)) in forbidden and i.at_import] == []


@pytest.mark.parametrize("library", sorted(FOREIGN))
def test_heavy_libraries_stay_where_they_belong(library):
    users = [i for i in all_imports() if i.module.split(".")[0] == library]
    assert [str(i) for i in users if i.part not in FOREIGN[library]] == []


def test_what_is_imported_is_declared():
    """Nothing is had by luck through others' dependencies, save what is part of a declared one's own interface."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[\[<>=]", line)[0].replace("-", "_") for line in lines}
    names = {"yaml": "pyyaml", "sklearn": "scikit_learn"}
    names |= {"jinja2": "transformers", "tokenizers": "transformers", "scipy": "scikit_learn"}
    names |= {"yarl": "aiohttp", "pydantic_core": "pydantic"}
    found = {i.module.split(".")[0] for i in all_imports()} - set(sys.stdlib_module_names) - {"serve_app"}
    assert {name for name in found if names.get(name, name) not in declared} == set()


def test_the_environment_is_touched_in_config_alone():
    """Reads anywhere else hide a setting."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        if where.startswith("config/"):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            named = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
            direct = isinstance(node, ast.alias) and node.name in ("environ", "getenv", "putenv")
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
        ("serve_app.routing", True),
        ("serve_app.pools", True),
        ("torch", False),
    ]
    assert {i.part for i in found} == {"routing"}
