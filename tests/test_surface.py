"""The public surface: complete (ruff keeps it sorted), never shadowed by a module, and light to import."""

import subprocess
import sys
import time

import fireact


def test_every_public_name_is_there() -> None:
    assert set(fireact.__all__) == set(fireact._MODULE)
    for name in fireact.__all__:
        assert getattr(fireact, name).__doc__, f"{name} has no docstring"


def test_no_module_takes_the_place_of_a_public_name() -> None:
    import pkgutil

    assert not {module.name for module in pkgutil.iter_modules(fireact.__path__)} & set(fireact.__all__)


def test_import_is_light() -> None:
    code = (
        "import sys, fireact; "
        "print([m for m in ('torch', 'numpy', 'rich', 'typer', 'requests', 'httpx') if m in sys.modules])"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 3  # a start of the interpreter and 0.3 s, with room for a busy machine
