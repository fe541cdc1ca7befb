"""Where things stand: imports go one way, never in a circle, and docs/tree.md names every file."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "honest_persona"
FLOORS = (
    "base",
    "statistics",
    "config",
    "data",
    "prompts",
    "modeling",
    "objectives",
    "persona",
    "probes",
    "generation",
    "rewards",
    "organism",
    "evaluation",
    "labelling",
    "training",
    "experiments",
    "hub",
    "harness",
    "verbs",
    "cli",
    "entry",
)
"""A file imports only from its own folder and from those above it in this list."""


def modules(root: Path) -> dict[str, Path]:
    """The package's files by dotted name, the package's own `__init__` left out."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {name: path for path, name in names.items() if name not in (PACKAGE, f"{PACKAGE}.__main__")}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            yield from inner or ({node.module} & known.keys())


def imports(root: Path) -> dict[str, set[str]]:
    known = modules(root)
    return {name: set(imported(path, known)) for name, path in known.items()}


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def upward(graph: dict[str, set[str]]) -> list[str]:
    return [
        f"{name} imports {other}" for name, others in graph.items() for other in others if floor(other) > floor(name)
    ]


def test_a_file_imports_from_its_own_floor_and_those_above_alone(root):
    graph = imports(root)
    assert len(graph) > 100
    assert sum(map(len, graph.values())) > 400
    assert upward(graph) == []


def test_no_import_goes_in_a_circle(root):
    TopologicalSorter(imports(root)).prepare()


class TestTheTestsThemselves:
    """An upward import and a circle are found, wherever in a file they stand."""

    @pytest.fixture
    def house(self, tmp_path):
        for name, text in {
            "data/records.py": "def read():\n    from honest_persona.prompts import tokens\n",
            "prompts/tokens.py": "import honest_persona.data.records\n",
            "base/files.py": "",
        }.items():
            path = tmp_path / PACKAGE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    def test_upward(self, house):
        assert upward(imports(house)) == ["honest_persona.data.records imports honest_persona.prompts.tokens"]

    def test_circle(self, house):
        with pytest.raises(CycleError):
            TopologicalSorter(imports(house)).prepare()


def test_the_tree_names_every_file_at_its_place(root):
    told, folders = set(), []
    for line in (root / "docs" / "tree.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"^( *)([\w.]+/?)(?:  |$|, )", line):
            depth, name = len(match[1]) // 2, match[2]
            folders = [*folders[:depth], name.rstrip("/")]
            if name.endswith(".py"):
                told.add("/".join(folders))
    there = {path.relative_to(root).as_posix() for path in (root / PACKAGE).rglob("*.py")} | {"train.py", "eval.py"}
    assert {path for path in there - told if Path(path).name not in ("__init__.py", "__main__.py")} == set()
    assert told <= there


def test_the_tree_stands_in_the_order_of_the_floors(root):
    lines = (root / "docs" / "tree.md").read_text(encoding="utf-8").splitlines()
    first = [line.split()[0].removesuffix("/").removesuffix(".py") for line in lines if re.match(r"^  \w", line)]
    assert first == [name for name in FLOORS if name in first]
    there = {name.split(".")[1] for name in modules(root)}
    assert there == set(first) <= set(FLOORS)
