"""``fireact publish``: a run as a repository of the Hugging Face hub, with its card, its results and its licences.

    adapter or model of train, or a merged export    a model, with ``.eval_results/TASK.yaml`` for each measured task
    collect, record, mix, eval                       a data set: Parquet and a data card
    study                                            a data set: the results of its cells, their tables and plots

Invariant: nothing leaves this machine without ``push``, nor without the licences of what is published, of its base and
of its teachers: a licence is never guessed. Neither the settings of a run, which hold paths, nor episodes that hold
keys are published.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireact.base import jsonl
from fireact.base.names import known_names
from fireact.base.redact import find_sensitive, iterate_strings
from fireact.base.run_directory import TRAJECTORIES, read_config, read_manifest
from fireact.base.settings import CheckedSettings, setting
from fireact.base.verbs import Command
from fireact.data.teachers import Teacher, find_teachers
from fireact.errors import ConfigError, DataError, FireactError, ProviderError, missing_extra_error, missing_path_error
from fireact.formats.card import LICENCE_NOTE as DATASET_NOTE
from fireact.formats.card import origin_of
from fireact.formats.read import read_any
from fireact.formats.write import write_episodes
from fireact.reporting.table import Row, Table
from fireact.rollout.loading import load_task
from fireact.rollout.students import tuned_directory
from fireact.training.model_card import ADAPTER_CONFIG, CARD, EVALUATIONS, build_model_card, find_hub_id, is_hub_id
from fireact.training.model_card import LICENCE_NOTE as MODEL_NOTE

if TYPE_CHECKING:
    from fireact.pipeline.result import Result

EPISODE_VERBS = ("collect", "record", "mix", "eval", "doctor")
STUDY_FILES = ("tables.md", "results.jsonl", "plots/*.svg", "plots/*.png")
EVAL_RESULTS = ".eval_results"
LICENCES = "Licences"
UNKNOWN = "unknown"
BASE_NAMES = ("base_model_name_or_path", "_name_or_path")
"""What peft and transformers call the base in the files of weights."""
_STUDY_HEAD = """---
license: unknown
tags:
- agent
- fireact
configs:
- config_name: default
  data_files: results.jsonl
---
"""
_TARGET = re.compile(r"hub:([\w.-]+/[\w.-]+)")


@dataclass(frozen=True, slots=True)
class PublishConfig(CheckedSettings):
    """Settings of ``publish``."""

    run: str = setting(metavar="RUN", is_path=True)
    """A run of train, export --to merged, collect, record, mix, eval, study or quickstart (its student)."""
    _: KW_ONLY
    to: str = setting(flags=("--to",))
    """The repository on the hub: hub:OWNER/NAME."""
    push: bool = setting(False)
    """Push. Without it, you see what would be pushed."""
    private: bool = setting(False)
    """Make a new repository private."""
    base: str | None = setting(None)
    """Hub id of the base model, where the student was a directory of this machine."""
    license: str | None = setting(None, panel=LICENCES)
    """Licence of what is published, as the hub names it: apache-2.0, mit, cc-by-4.0, ..."""
    base_license: str | None = setting(None, panel=LICENCES)
    """Licence of the base model, for a model."""
    teacher_license: str | None = setting(None, panel=LICENCES)
    """Licence or terms of the teachers' answers. Default: what collect and record were told."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What a repository would hold: its files by path (a file here, or a text), and the licences that nobody named."""

    repository: str
    kind: str
    files: Mapping[str, Path | str]
    missing: Sequence[str] = ()
    url: str = ""

    def sizes(self) -> dict[str, int]:
        """Path in the repository -> bytes."""
        return {
            name: content.stat().st_size if isinstance(content, Path) else len(content.encode("utf-8"))
            for name, content in self.files.items()
        }

    def tabulate(self) -> Table:
        """The files with their sizes; the licences that are missing are its notes."""
        rows: list[Row] = [[name, _describe_size(size)] for name, size in self.sizes().items()]
        return Table(f"{self.kind} {self.repository}", ["file", "size"], rows, notes=self.missing)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``url`` is empty where nothing was pushed."""
        return {
            "repository": self.repository,
            "kind": self.kind,
            "pushed": bool(self.url),
            "url": self.url,
            "missing": list(self.missing),
            "files": [{"path": name, "bytes": size} for name, size in self.sizes().items()],
            "card": self.files[CARD],
        }


def _describe_size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} KB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"


def publish_run(config: PublishConfig) -> Result:
    """Publish a run on the hub, or without ``push`` only say what would be published; the value is a ``Publication``.

    Raises ConfigError where a licence is missing, DataError for a run that cannot be published, and ProviderError for
    what the hub refuses.
    """
    from fireact.pipeline.result import Result

    with prepare_publication(config) as publication:
        if config.push:
            if publication.missing:
                raise ConfigError(f"nothing was pushed: {' '.join(publication.missing)}")
            publication = replace(publication, url=_push(publication, private=config.private))
        sizes = publication.sizes()
        verb = "pushed to" if publication.url else "would be pushed to"
        text = f"{len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB {verb} {publication.repository}"
        return Result(publication, text, [publication.tabulate()])


@contextmanager
def prepare_publication(config: PublishConfig) -> Iterator[Publication]:
    """What a run is as a repository; files that are made for it lie in a temporary folder while the block runs."""
    match = _TARGET.fullmatch(config.to)
    if match is None:
        raise ConfigError(f"--to {config.to}: give a repository of the hub, as hub:OWNER/NAME.")
    run = Path(config.run)
    if not run.is_dir():
        raise missing_path_error(run)
    verb = str(read_config(run)["verb"])
    directory = (tuned_directory(config.run) or run) if verb in ("quickstart", "improve") else run
    verb = str(read_config(directory)["verb"])
    read_manifest(directory)  # an incomplete run raises, and says how to resume it
    with tempfile.TemporaryDirectory(prefix="fireact-publish-") as folder:
        if verb in EPISODE_VERBS:
            yield _prepare_dataset(config, directory, match[1], Path(folder) / match[1].rpartition("/")[2])
        elif verb == "study":
            yield _prepare_study(config, directory, match[1])
        elif verb in ("train", "prefer", "export"):
            yield _prepare_model(config, directory, match[1])
        else:
            raise DataError(f"{run} is a run of {verb}, which is neither a model, nor data, nor a study.")


def _prepare_model(config: PublishConfig, directory: Path, repository: str) -> Publication:
    """The weights of a student with its card and results; an export has those of the run that it was made from."""
    manifest, settings = read_manifest(directory), read_config(directory)
    is_export = settings["verb"] == "export"
    if is_export and manifest.get("to") != "merged":
        raise DataError(f"{directory} is an export to {manifest.get('to')}. Publish one of 'export --to merged'.")
    trained = (tuned_directory(str(settings["run"])) or directory) if is_export else directory
    weights = directory if is_export else directory / ("model" if (directory / "model").is_dir() else "adapter")
    base = _find_base(config, str(manifest["student"]))
    names = manifest["files"] if is_export else [path.name for path in weights.iterdir() if path.is_file()]
    files = {name: _name_base(weights / name, base or UNKNOWN) for name in sorted(names) if name != CARD}
    teachers = _license_teachers(config, trained)
    files[CARD] = _add_licences(
        build_model_card(trained, is_adapter=weights.name == "adapter", base=base or UNKNOWN), config, teachers,
        base=base or UNKNOWN, results=_read_results(trained), name=repository,
    )  # fmt: skip
    files |= dict(_list_eval_results(trained))
    missing = [*_missing_licences(config, teachers), *_missing_base(config, base)]
    return Publication(repository, "model", files, missing)


def _find_base(config: PublishConfig, student: str) -> str:
    """The hub id of the base; empty where the student is a directory whose id nobody named."""
    if config.base is not None and not is_hub_id(config.base):
        raise ConfigError(f"--base {config.base}: give a model of the hub, as OWNER/NAME.")
    base = config.base or find_hub_id(student)
    return base if is_hub_id(base) else ""


def _name_base(file: Path, base: str) -> Path | str:
    """A file of weights; its text, with the name of the base, where it has the path of the student instead."""
    settings = json.loads(file.read_text(encoding="utf-8")) if file.name in (ADAPTER_CONFIG, "config.json") else {}
    names = {name: base for name in BASE_NAMES if name in settings and settings[name] != base}
    return json.dumps({**settings, **names}, indent=2) + "\n" if names else file


def _prepare_dataset(config: PublishConfig, directory: Path, repository: str, folder: Path) -> Publication:
    """The episodes of a run as a data set. Raises DataError where they hold keys."""
    if (number := _find_key(directory / TRAJECTORIES)) is not None:
        raise DataError(
            f"{directory / TRAJECTORIES}, line {number} holds what looks like a key. Redact a copy with "
            f"'fireact doctor {directory} --fix -o COPY', publish that, and revoke the key."
        )
    write_episodes(read_any(directory), folder, "dataset", origin=origin_of(directory))
    files: dict[str, Path | str] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CARD
    }
    teachers = _license_teachers(config, directory)
    files[CARD] = _add_licences((folder / CARD).read_text(encoding="utf-8"), config, teachers, name=repository)
    return Publication(repository, "dataset", files, _missing_licences(config, teachers))


def _find_key(file: Path) -> int | None:
    """The first line that holds what looks like a key, in the strings of its JSON or, where it is none, as it is."""
    for number, line in jsonl.read_numbered_lines(file):
        text = line.decode(errors="replace")
        with suppress(ValueError):
            text = "\n".join(iterate_strings(jsonl.loads(line)))
        if any(kind == "secret" for kind, _ in find_sensitive(text)):
            return number
    return None


def _prepare_study(config: PublishConfig, directory: Path, repository: str) -> Publication:
    """The results of a study, whose tables are the card. Raises DataError where they hold keys."""
    title = str(read_manifest(directory)["title"])
    files: dict[str, Path | str] = {
        path.relative_to(directory).as_posix(): path
        for pattern in STUDY_FILES
        for path in sorted(directory.glob(pattern))
    }
    for path in map(directory.joinpath, files):
        if path.suffix != ".png" and (number := _find_key(path)) is not None:
            raise DataError(
                f"{path}, line {number} holds what looks like a key. Take it out of the study's file, run the study "
                "anew, and revoke the key."
            )
    tables = directory / "tables.md"
    text = tables.read_text(encoding="utf-8") if tables.is_file() else f"# {title}\n"
    files[CARD] = _add_licences(_STUDY_HEAD + text, config, [], name=repository)
    return Publication(repository, "dataset", files, _missing_licences(config, []))


def _license_teachers(config: PublishConfig, run: Path) -> list[Teacher]:
    """The teachers behind a run, with the licence that is given here where none was named before."""
    teachers = find_teachers(run)
    return [
        replace(teacher, license=config.teacher_license)
        if teacher.needs_licence and config.teacher_license
        else teacher
        for teacher in teachers
    ]


def _missing_licences(config: PublishConfig, teachers: Sequence[Teacher]) -> list[str]:
    missing = [] if config.license else ["Name the licence of what is published with --license."]
    unlicensed = [teacher.name for teacher in teachers if teacher.needs_licence]
    if unlicensed:
        missing.append(
            f"Nobody named the licence of the answers of {', '.join(unlicensed)}: read its terms on training, and give "
            "--teacher-license."
        )
    return missing


def _missing_base(config: PublishConfig, base: str) -> list[str]:
    missing = [] if base else ["Name the base by its hub id with --base: the student was a directory of this machine."]
    shown_base = f"the base {base}" if base else "the base"
    return missing if config.base_license else [*missing, f"Name the licence of {shown_base} with --base-license."]


def _add_licences(
    card: str,
    config: PublishConfig,
    teachers: Sequence[Teacher],
    *,
    name: str,
    base: str = "",
    results: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A card with its licence, the licences behind it, and in its head the results as the hub's model index."""
    hub = _import_hub()
    data = hub.ModelCard(card, ignore_metadata_errors=True)
    data.data.license = config.license or "unknown"
    if results:
        data.data.model_name = name.rpartition("/")[2]
        data.data.eval_results = [
            hub.EvalResult(
                task_type="text-generation", dataset_type=row["task"], dataset_name=row["task"],
                metric_type="exact_match", metric_value=round(100 * row["em"], 2), metric_name=_describe_metric(row),
            )
            for row in results
        ]  # fmt: skip
    lines = [f"- this repository: {config.license or 'unknown'}"]
    lines += [f"- the base {base}: {config.base_license or 'unknown'}"] if base else []
    lines += [f"- the answers of {teacher.name}: {_describe_licence(teacher)}" for teacher in teachers]
    text = str(data.content).replace(MODEL_NOTE, "\n").replace(DATASET_NOTE, "\n")  # the section below says more
    return f"{text.rstrip()}\n\n## Licences\n\n" + "\n".join(lines) + "\n"


def _describe_licence(teacher: Teacher) -> str:
    return teacher.license or ("unknown" if teacher.needs_licence else "a script of FireAct")


def _read_results(run: Path) -> list[dict[str, Any]]:
    """What evaluations of a student measured: a row for each task."""
    file = run / EVALUATIONS
    return list(jsonl.read_objects(file)) if file.is_file() else []


def _describe_metric(row: Mapping[str, Any]) -> str:
    low, high = row["em_interval"]
    return f"exact match, % (95% interval {100 * low:.1f} to {100 * high:.1f}, n {row['n']})"


def _list_eval_results(run: Path) -> Iterator[tuple[str, str]]:
    """The files ``.eval_results/TASK.yaml`` of the tasks whose questions are a data set of the hub."""
    hub = _import_hub()
    import yaml

    for row in _read_results(run):
        dataset = _find_dataset(str(row["task"]))
        if dataset is None:
            continue
        entry = hub.EvalResultEntry(
            dataset_id=dataset[0], task_id=dataset[1] or "default", value=round(100 * row["em"], 2),
            notes=f"{_describe_metric(row)}; measured by FireAct, with tools",
        )  # fmt: skip
        text = yaml.safe_dump(hub.eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        yield f"{EVAL_RESULTS}/{re.sub(r'[^A-Za-z0-9._-]+', '-', str(row['task']))}.yaml", text


def _find_dataset(task: str) -> tuple[str, str | None] | None:
    """The data set on the hub that a task's questions are, and its configuration; None for any other task.

    The task stands in a run that somebody else may have made, so it is only looked up among the names of plug-ins.
    """
    if task not in known_names("task"):
        return None
    try:
        dataset: tuple[str, str | None] | None = getattr(load_task(task), "hub_dataset", None)
    except (FireactError, TypeError):  # a task that needs an argument
        return None
    return dataset


def _push(publication: Publication, *, private: bool) -> str:
    """Push all files in one commit, and return the address of the repository."""
    hub = _import_hub()
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    operations = [
        hub.CommitOperationAdd(name, content if isinstance(content, Path) else content.encode("utf-8"))
        for name, content in publication.files.items()
    ]
    try:
        created = api.create_repo(publication.repository, repo_type=publication.kind, private=private, exist_ok=True)
        api.create_commit(
            publication.repository, operations, repo_type=publication.kind, commit_message="Publish with FireAct"
        )
    except (hub.errors.HTTPError, hub.errors.LocalTokenNotFoundError, OSError, ValueError) as error:
        raise _explain_refusal(error, publication.repository, str(api.endpoint)) from error
    return str(created)


def _explain_refusal(error: Exception, repository: str, address: str) -> ProviderError:
    """What the hub refuses and why; a token is asked for only where it lacks one, or a better one."""
    hub = _import_hub()
    reason = " ".join(str(error).split())[:400] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and isinstance(error, hub.errors.HTTPError):
        return ProviderError(f"the hub cannot be reached at {address}: {reason}. Check the connection and HF_ENDPOINT.")
    needs_token = status in (401, 403) or isinstance(error, hub.errors.LocalTokenNotFoundError)
    advice = " Give a token that may write in HF_TOKEN." if needs_token else ""
    return ProviderError(f"the hub refused {repository}: {reason.rstrip('.')}.{advice}")


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise missing_extra_error("huggingface_hub", "hub") from error
    return huggingface_hub


PUBLISH = Command(
    "publish", PublishConfig, publish_run, command_line="fireact.cli.runs:publish_command",
    example="`fireact publish runs/train --to hub:me/my-agent --license apache-2.0 --base-license apache-2.0 --push`",
)  # fmt: skip
