"""Data flows one way and so do imports: a module imports only from its own layer or from layers before it."""

import ast
from pathlib import Path

LAYERS = [
    ["types", "errors", "jsonl", "machine", "names", "progress"],
    ["world"],
    ["tasks", "tools", "models", "render", "prompts", "cache"],
    ["methods"],
    ["episodes", "store", "agents", "estimate", "collection", "recording"],
    ["formats"],
    ["data"],
    ["training", "hosted", "serving"],
    ["evaluation"],
    ["study", "reporting"],
    ["terminal", "line", "improvement", "verbs", "options", "cli", "__main__"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ROOT = Path(__file__).parents[1] / "src" / "fireact"


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "fireact":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("fireact."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fireact.")}
    return found


def test_imports_flow_one_way() -> None:
    modules = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert len(modules) > 10
    for path in modules:
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert own in RANK, f"{path} stands in no layer"
        wrong = {name for name in imported(path) if RANK.get(name, len(LAYERS)) > RANK[own]}
        assert not wrong, f"{path} imports {sorted(wrong)}, which stand to its right"
