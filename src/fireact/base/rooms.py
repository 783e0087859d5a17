"""Packages that can be called, since a command has the same name: ``fireact.study(...)``, ``fireact.render(...)``.

Python binds an imported package to its name in ``fireact``, in place of any function of that name.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A package that is also the function of the command with its name."""

    def _function(self) -> Any:
        functions = importlib.import_module("fireact.pipeline.functions")
        return functions.load_function(self.__name__.rpartition(".")[2])

    def __call__(self, *positional: Any, **values: Any) -> Any:
        return self._function()(*positional, **values)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())


def make_room_callable(name: str) -> None:
    """Let an imported package be called as the command with the last part of its name."""
    sys.modules[name].__class__ = CallableRoom
