"""Imports run one way. Read from the source, so that an import inside a function counts like one at the top."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "seglab"
ENTRIES = ("train", "evaluate", "predict", "export", "benchmark", "prototypes", "report.__main__", "sweep", "hs3")
"""Modules that are started, and that nothing below them imports."""
PARTS = ("backbones", "classifiers", "decoders", "flow", "heads", "losses", "metrics", "ops", "optim")
RUNNING = ("build", "callbacks", "cli", "loading", "loggers", "module", "multirun", "report", "trainer")
ABOVE = (*RUNNING, "tasks", "predictors")
APART = {
    **dict.fromkeys(PARTS, (*ABOVE, "models", "data", "runs")),
    "models": (*ABOVE, "data", "runs", "losses", "metrics"),
    "tasks": RUNNING,
    "predictors": (*RUNNING, "tasks", "losses", "metrics"),
    "module": ("build", "loading", "trainer", "multirun", "report"),
    "data": (*ABOVE, "models", *PARTS),
    "data.source": ("data.check",),
    "runs": (*ABOVE, *PARTS, "models", "data"),
    "multirun": ("report",),
}
"""What a layer knows nothing of, nor anything that it imports."""

Graph = dict[str, set[str]]


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements that run: also those inside functions, none under TYPE_CHECKING."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
        for node in tree.orelse:
            yield from imports(node)
        return
    if isinstance(tree, ast.Import | ast.ImportFrom):
        yield tree
    for node in ast.iter_child_nodes(tree):
        yield from imports(node)


def graph(root: Path) -> Graph:
    """Module -> the modules of the package under ``root`` that it imports, without the package's name in front.

    ``from package import name`` is an import of the module of that name where there is one, else of the package: that
    Python runs ``__init__`` on the way to a submodule is no use of what ``__init__`` offers.
    """
    files = {module(file, root): file for file in sorted(root.rglob("*.py"))}
    found: Graph = {}
    for name, file in files.items():
        targets: set[str] = set()
        for node in imports(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            else:
                assert node.level == 0, f"{file}: a relative import"
                inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {full if full in files else str(node.module) for full in inner.values()}
        found[name] = {target for target in targets if target in files} - {name}
    return {short(name, root): {short(target, root) for target in targets} for name, targets in found.items()}


def module(file: Path, root: Path) -> str:
    """The dotted name of a file: ``seglab/data/__init__.py`` is ``seglab.data``."""
    parts = file.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def short(name: str, root: Path) -> str:
    """The name within the package; the package itself keeps its own."""
    return name.removeprefix(f"{root.name}.")


def cycles(graph: Graph) -> list[list[str]]:
    """Sets of modules each of which reaches all others of its set."""
    reached = {name: reachable(graph, name) for name in graph}
    alike = {
        frozenset({other for other in reached[name] if name in reached[other]})
        for name in graph
        if name in reached[name]
    }
    return sorted(sorted(names) for names in alike)


def reachable(graph: Graph, start: str) -> set[str]:
    """Everything that ``start`` imports, directly or not; ``start`` itself only where it lies on a cycle."""
    seen: set[str] = set()
    rest = list(graph[start])
    while rest:
        name = rest.pop()
        if name not in seen:
            seen.add(name)
            rest += graph[name]
    return seen


def within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


@pytest.fixture(scope="module")
def seglab() -> Graph:
    return graph(ROOT)


def test_the_rules_are_about_modules_that_exist(seglab: Graph):
    named = {*ENTRIES, *APART, *(above for layers in APART.values() for above in layers)}
    assert {name for name in named if not any(within(each, name) for each in seglab)} == set()


def test_there_is_no_import_cycle(seglab: Graph):
    assert cycles(seglab) == []


@pytest.mark.parametrize("layer", APART)
def test_a_layer_imports_none_of_those_above_it(seglab: Graph, layer: str):
    wrong = {
        f"{name} -> {other}"
        for name in seglab
        if within(name, layer)
        for other in reachable(seglab, name)
        if any(within(other, above) for above in APART[layer])
    }
    assert wrong == set()


def test_no_entry_point_is_imported_from_below(seglab: Graph):
    wrong = {
        f"{name} -> {target}"
        for name, targets in seglab.items()
        for target in targets
        if target in ENTRIES and name not in ENTRIES
    }
    assert wrong == set()


def test_the_graph_includes_imports_in_functions_and_not_those_for_type_checking(tmp_path: Path):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner/__init__.py").write_text("from package.inner.leaf import name\n")
    (package / "inner/leaf.py").write_text("def name():\n    from package import other\n")
    (package / "other.py").write_text("from package.inner import name\n")
    (package / "checked.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package import other\nelse:\n    import package.inner.leaf\n"
    )
    found = graph(package)
    assert found["checked"] == {"inner.leaf"}
    assert cycles(found) == [["inner", "inner.leaf", "other"]]
