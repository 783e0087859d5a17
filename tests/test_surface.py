"""The public surface: complete (ruff keeps it sorted), never shadowed by a module, and light to import."""

import ast
import importlib
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fireact
from fireact.base.commands import COMMANDS
from fireact.base.settings import read_settings
from fireact.base.verbs import load_command
from fireact.pipeline.functions import COMMON, load_function

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there() -> None:
    assert set(fireact.__all__) == {*fireact._MODULE, *fireact._FUNCTIONS}
    for name in fireact.__all__:
        assert getattr(fireact, name).__doc__, f"{name} has no docstring"


def test_a_package_with_the_name_of_a_function_is_that_function() -> None:
    """Python binds an imported package to its name in ``fireact``, so the package itself must be callable there."""
    import pkgutil

    modules = {module.name for module in pkgutil.iter_modules(fireact.__path__)}
    assert modules & set(fireact.__all__) == {"render", "study"}
    for name in ("render", "study"):
        importlib.import_module(f"fireact.{name}")
        assert callable(getattr(fireact, name))
    assert list(inspect.signature(fireact.study).parameters)[:2] == ["study", "out"]
    with pytest.raises(fireact.ConfigError, match=r"unknown study 'nosuch'"):
        fireact.study("nosuch", dry_run=True)


def test_every_command_is_a_function() -> None:
    assert sorted(entry.function or name for name, entry in COMMANDS.items()) == sorted(fireact._FUNCTIONS)
    for name in fireact._FUNCTIONS:
        assert inspect.signature(getattr(fireact, name)).parameters, name


def test_import_is_light() -> None:
    code = (
        "import sys, fireact; "
        "print([m for m in ('torch', 'numpy', 'rich', 'typer', 'requests', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_function_takes_every_setting_that_its_command_takes(name: str) -> None:
    """All but the options that only say how a command prints."""
    from fireact.cli.options import make_callback

    record = load_command(name)
    options = set(inspect.signature(make_callback(record)).parameters) - {"context", "as_json"}
    function = load_function(COMMANDS[name].function or name)
    by_parameter = {entry.parameter: entry.name for entry in read_settings(record.config)}
    printing = {"report": {"markdown"}, "study": {"list"}, "compare": {"flips"}, "serve": {"mcp"}}.get(name, set())
    assert {by_parameter.get(option, option) for option in options - printing} <= set(
        inspect.signature(function).parameters
    )
    for setting in set(inspect.signature(function).parameters) - {*COMMON, "on_text"}:
        line = next(line for line in function.__doc__.splitlines() if line.startswith(f"    {setting}: "))
        assert line.removeprefix(f"    {setting}: ").strip(), f"{setting} of {name} has no help"


@pytest.mark.parametrize("file", sorted((ROOT / "bench").glob("*.py")), ids=lambda file: file.stem)
def test_a_benchmark_imports_what_there_is(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fireact":
            module = importlib.import_module(str(node.module))
            absent = [name.name for name in node.names if not hasattr(module, name.name)]
            assert [name for name in absent if importlib.util.find_spec(f"{node.module}.{name}") is None] == []
