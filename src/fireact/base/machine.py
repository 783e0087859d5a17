"""Checks of free disk and memory, made before work starts that would fail only hours later."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs

from fireact.errors import ConfigError


def cache_directory() -> Path:
    """The user's cache: ``FIREACT_CACHE``, or the operating system's usual cache directory."""
    return Path(os.environ.get("FIREACT_CACHE") or platformdirs.user_cache_dir("fireact"))


def require_disk(path: Path, *, gigabytes: float) -> None:
    """Raise ConfigError when the disk under ``path`` has less free space than that."""
    existing_parent = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    free_gigabytes = shutil.disk_usage(existing_parent).free / 1e9
    if free_gigabytes < gigabytes:
        raise ConfigError(
            f"{existing_parent} has {free_gigabytes:.1f} GB of free disk; this needs {gigabytes:.1f} GB. Free some, or "
            "choose -o."
        )


def require_memory(*, gigabytes: float, available: Callable[[], float] | None = None) -> None:
    """Raise ConfigError when less memory than that is available."""
    import psutil

    free_gigabytes = available() if available else psutil.virtual_memory().available / 1e9
    if free_gigabytes < gigabytes:
        raise ConfigError(
            f"{free_gigabytes:.1f} GB of memory are available; this needs about {gigabytes:.1f} GB. Close something."
        )


def peak_memory_gb() -> float:
    """The most memory that this process has held, in GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def release_memory() -> None:
    """Return unused memory to the system; the C allocator would keep freed tensors otherwise."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library has no malloc_trim
        return
