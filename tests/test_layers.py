"""Data flows one way and so do imports: a module imports only from its own layer or from layers before it, and none
in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

LAYERS = [
    ["types", "errors"],
    ["base"],
    ["wire"],
    ["world"],
    ["tasks", "tools", "models", "render"],
    ["methods"],
    ["rollout"],
    ["recording"],
    ["formats"],
    ["data"],
    ["training", "hosted", "serving"],
    ["evaluation"],
    ["study", "reporting"],
    ["pipeline", "terminal", "cli", "__main__"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ROOT = Path(__file__).parents[1] / "src" / "fireact"


MODULES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, at its head or inside functions, by their dotted names below fireact."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "fireact" or (node.module or "").startswith("fireact."):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("fireact.") for name in found if name.startswith("fireact.")}


def test_imports_flow_one_way() -> None:
    assert len(MODULES) > 10
    for path in MODULES:
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert own in RANK, f"{path} stands in no layer"
        names = {name.partition(".")[0] for name in imported(path)}
        wrong = {name for name in names if RANK.get(name, len(LAYERS)) > RANK[own]}
        assert not wrong, f"{path} imports {sorted(wrong)}, which stand to its right"


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    graph = {name: {other for other in imported(path) if other in names} - {name} for name, path in names.items()}
    packages = {name.rpartition(".")[0] for name in names} - {""}
    for name in packages:  # importing a module imports its package first, which is no circle of theirs
        for inner in [one for one in graph if one.startswith(f"{name}.")]:
            graph[inner].discard(name)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_rooms_import_each_other_in_a_circle() -> None:
    """A room is a folder: within a layer, too, one of two rooms stands before the other."""
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        graph.setdefault(room, set()).update({name.partition(".")[0] for name in imported(path)} - {room, ""})
    TopologicalSorter(graph).prepare()


def test_the_order_is_the_one_that_contributors_read() -> None:
    lines = (ROOT.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    told = " ".join(line.strip() for line in lines if line.startswith("    "))
    assert told == " | ".join(map(" ".join, LAYERS))
