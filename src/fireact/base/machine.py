"""What this machine has: free disk and memory, checked before hours of work, its device, and its products."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from fireact.errors import ConfigError, unknown_name_error

if TYPE_CHECKING:
    import torch

BFLOAT16 = "FIREACT_BFLOAT16"
"""Environment variable: ``on`` or ``off`` decides whether products are bfloat16; unset, the hardware decides."""


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


def keep_freed_memory() -> None:
    """Have the C allocator keep freed tensors for the next step, until ``release_memory``.

    By default it returns them to the system, which clears their pages again at each step: an eighth of all work.
    """
    _set_allocator(trim_threshold=2**31 - 1, map_threshold=2**30)


def release_memory() -> None:
    """Return unused memory to the system; the C allocator would keep freed tensors otherwise."""
    gc.collect()
    _set_allocator(trim_threshold=2**17, map_threshold=2**25)
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library has no malloc_trim
        return


def _set_allocator(*, trim_threshold: int, map_threshold: int) -> None:
    """Set from how many bytes glibc returns freed memory, and from how many it maps blocks apart."""
    trim_option, map_option = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library has no mallopt
        return
    set_option(trim_option, trim_threshold)
    set_option(map_option, map_threshold)


def training_device() -> str:
    """The device to train on: this process's GPU where there is one, unless accelerate is set to use the CPU."""
    import torch

    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true":
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def choose_product_dtype() -> torch.dtype:
    """The type that training multiplies in."""
    import torch

    return torch.bfloat16 if has_bfloat16() else torch.float32


def has_bfloat16() -> bool:
    """Whether models multiply in bfloat16: where the hardware does so itself, unless FIREACT_BFLOAT16 decides.

    Emulated bfloat16 is slower than float32. Raises ConfigError for a value of the variable that is not on or off.
    """
    import torch

    choice = os.environ.get(BFLOAT16, "")
    if choice not in ("", "on", "off"):
        raise unknown_name_error(f"value of {BFLOAT16}", choice, ("on", "off"))
    if choice:
        return choice == "on"
    if training_device() != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
