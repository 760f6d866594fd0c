"""One list of rooms: stubs, folders, import contract and catalogue agree, and every name in them can be imported."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import equipoise
from equipoise.catalog import load_catalog

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "equipoise"
FILES = sorted(PACKAGE.rglob("*.py"))
STUBS = sorted(PACKAGE.rglob("*.pyi"))
MOST_LINES = 500


def _dotted(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def _stub_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]


def _imports(name, tree, *, eager=False):
    """(module, imported name or None) of every import of the package; `eager`: only those made by importing it."""
    is_package = (PACKAGE.parent / name.replace(".", "/") / "__init__.py").exists()
    nodes = list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.startswith("equipoise"))
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module.startswith("equipoise"):
                yield from ((module, alias.name) for alias in node.names)
        elif not (eager and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            nodes += ast.iter_child_nodes(node)


@pytest.mark.parametrize("name", [info.name for info in pkgutil.walk_packages(equipoise.__path__, "equipoise.")])
def test_every_module_can_be_imported(name):
    if not name.endswith("__main__"):
        importlib.import_module(name)


@pytest.mark.parametrize("path", STUBS, ids=_dotted)
def test_every_name_of_a_stub_is_there(path):
    package, names = importlib.import_module(_dotted(path)), _stub_names(path)
    assert len(set(names)) == len(names)
    assert sorted(package.__all__) == sorted(names)
    assert all(getattr(package, name) is not None for name in names)


def test_the_root_stub_lists_the_packages_on_disk():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(_stub_names(PACKAGE / "__init__.pyi")) == folders - {"cli"}  # what the command line does is `workflows`


def test_the_import_contract_and_the_stubs_know_the_rooms_of_the_catalogue():
    tomllib = pytest.importorskip("tomllib")
    rooms = {paper.room for paper in load_catalog() if paper.provides}
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [set(layer.split(" | ")) for layer in contract["contracts"][0]["layers"]]
    assert rooms in layers
    assert set().union(*layers) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_no_module_imports_a_private_name_of_another_folder():
    found = []
    for name, tree in MODULES.items():
        for module, imported in _imports(name, tree):
            private = [part for part in [*module.split("."), imported or ""] if part.startswith("_")]
            folder = (PACKAGE.parent / module.replace(".", "/")).is_dir()
            home = module if folder else module.rpartition(".")[0]
            here = name if (PACKAGE.parent / name.replace(".", "/")).is_dir() else name.rpartition(".")[0]
            if [part for part in private if not part.startswith("__")] and home != here:
                found.append(f"{name}: {module} {imported or ''}")
    assert not found


def test_no_import_goes_in_a_circle():
    graph = {
        name: {
            target
            for module, imported in _imports(name, tree, eager=True)
            for target in [f"{module}.{imported}" if f"{module}.{imported}" in MODULES else module]
            if target in MODULES and target != name
        }
        for name, tree in MODULES.items()
    }
    done, circles = set(), []

    def visit(name, path):
        if name in path:
            circles.append(" → ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(graph[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    assert not circles


def test_every_file_can_be_read_in_one_sitting():
    assert not [_dotted(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES]
