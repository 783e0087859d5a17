"""The stages of a cell: collect, mix, train (or tune at a provider), eval. Each is a verb with settings.

    ROOT/collect/4f0c...  ROOT/mix/91aa...  ROOT/train/07d2...  ROOT/tune/5e1b...  ROOT/eval/c3b1...

Invariant: a stage's directory is named by its key, a hash of all settings that its result depends on. In the hash the
keys of the stages before it, and the hashes of foreign files, stand in place of their paths. So equal work has one
directory, wherever that lies and whichever study asked for it. Folders count by their names; so do files of other
settings, unless their path has a ``{NAME}``. Nothing is run here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fireact.base import jsonl, names
from fireact.base.run_directory import MANIFEST, file_hash, to_toml_table
from fireact.base.settings import check_fields
from fireact.base.verbs import load_verb
from fireact.data import MixConfig
from fireact.errors import ConfigError
from fireact.evaluation.evaluate import EvalConfig
from fireact.evaluation.recorded_questions import load_recorded_questions
from fireact.hosted.tune import is_provider_spec
from fireact.rollout.collection import CollectConfig
from fireact.rollout.episode_settings import EpisodeSettings
from fireact.study.cells import EVAL_SETTINGS, RECIPE_SETTINGS, Cell
from fireact.study.file import StudyFile
from fireact.training.recipe import read_recipe

T = TypeVar("T")
PLACEHOLDER = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of a verb: the verb, its key, its settings, and the inputs that it takes from other stages.

    ``inputs`` maps a setting ("sources", "data", "agent") to stages, files and names of models.
    """

    verb: str
    key: str
    values: Mapping[str, Any]
    inputs: Mapping[str, Sequence[Stage | str]] = field(default_factory=dict)

    @property
    def dependencies(self) -> list[Stage]:
        """The stages before this one."""
        return [entry for inputs in self.inputs.values() for entry in inputs if isinstance(entry, Stage)]

    def path(self, root: Path) -> Path:
        return root / self.verb / self.key

    def is_complete(self, root: Path) -> bool:
        return (self.path(root) / MANIFEST).is_file()

    def config(self, root: Path) -> Any:
        """The verb's settings with the directories of the stages before it."""
        values = dict(self.values)
        for name, entries in self.inputs.items():
            paths = [str(entry.path(root)) if isinstance(entry, Stage) else entry for entry in entries]
            values[name] = tuple(paths) if name == "sources" else paths[0]
        return load_verb(self.verb).config(**values)

    @property
    def is_rollout(self) -> bool:
        """Whether it runs episodes."""
        return issubclass(load_verb(self.verb).config, EpisodeSettings)

    @property
    def sources(self) -> Sequence[Stage | str]:
        """What a mixture is mixed from: collections and files."""
        return self.inputs.get("sources", ())

    @property
    def student(self) -> str:
        """The model that a stage of train or tune fine-tunes; empty for other stages."""
        return str(self.values.get("student") or self.values.get("model") or "")

    @property
    def model(self) -> str:
        """The model that answers the questions of a stage of collect or eval: of a fine-tuned agent its base."""
        if self.verb == "collect":
            return str(self.values.get("teacher", CollectConfig().teacher))
        return self.dependencies[0].student if self.dependencies else str(self.inputs["agent"][0])

    @property
    def epochs(self) -> int:
        """The number of passes of a stage of train or tune over its data."""
        config = self.config(Path())
        return int(config.epochs if self.verb == "tune" else config.recipe.epochs)

    @property
    def has_paid_searches(self) -> bool:
        """Whether each of its searches costs money."""
        return any(spec.rpartition(":")[2] == "serpapi" for spec in self.values.get("tools", ()))

    @property
    def has_paid_model(self) -> bool:
        """Whether it pays for a model or a job."""
        if self.verb == "eval" and self.dependencies:
            return self.dependencies[0].verb == "tune"
        return self.verb == "tune" or (self.is_rollout and self.model.startswith("openai:"))

    def chain(self) -> Iterator[Stage]:
        """The stages before this one and itself, in the order of running."""
        for stage in self.dependencies:
            yield from stage.chain()
        yield self


def find_for_stage(table: Mapping[str, T], name: str, stage: Stage) -> T | None:
    """The entry of a table of prices or rates for a stage: that of its recipe's kind, else of its base, else of any."""
    kinds = [stage.values["recipe"].kind] if "recipe" in stage.values else []
    students = [chain_stage.student for chain_stage in stage.chain() if chain_stage.student]
    for qualifier in (*kinds, *students, *stage.inputs.get("agent", ())):
        if f"{name}:{qualifier}" in table:
            return table[f"{name}:{qualifier}"]
    return table.get(name)


def unique_stages(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Each stage once, in the order in which they come."""
    seen_keys: set[str] = set()
    for stage in stages:
        if stage.key not in seen_keys:
            seen_keys.add(stage.key)
            yield stage


def question_groups(config: CollectConfig | EvalConfig) -> list[tuple[str, str, int]]:
    """(task, method, number of questions) of a collection or an evaluation."""
    if isinstance(config, EvalConfig):
        if config.questions_of is None:
            return [(task, config.method, config.n or 0) for task in config.tasks]  # without a run there is a number
        recorded = load_recorded_questions(config.questions_of, next(iter(config.tasks), None))
        return [(task.name, config.method, config.n or len(task.questions)) for task in recorded]
    return [(*name.rpartition("/")[::2], count) for name, count in config.plan.items()]


@dataclass(frozen=True, slots=True)
class StageResolver:
    """Builds the stages of a study's cells; ``user_values`` are the user's values for ``{NAME}`` in settings."""

    study: StudyFile
    user_values: Mapping[str, str] = field(default_factory=dict)

    def evaluation_stage(self, cell: Cell) -> Stage:
        """The last stage of a cell. Raises ConfigError for settings that cannot be used."""
        eval_settings = {key: value for key, value in cell.settings.items() if key in EVAL_SETTINGS}
        if cell.is_fine_tuned:
            eval_settings = self._fine_tuned_settings(cell, eval_settings)
        if cell.noise:
            tasks = eval_settings.get("tasks", EvalConfig("").tasks)
            tools = eval_settings.get("tools") or EvalConfig("", tasks).tools
            eval_settings["tools"] = [f"noise:{cell.noise}:{tool}" for tool in tools]
        agent: Stage | str = self.training_stage(cell) if cell.is_fine_tuned else cell.base
        return self._build_stage("eval", eval_settings, {"agent": [agent]}, f"the cell {cell.name!r}")

    def _fine_tuned_settings(self, cell: Cell, eval_settings: Mapping[str, Any]) -> dict[str, Any]:
        """The eval settings of a fine-tuned agent: without method and examples, unless it is few-shot prompted."""
        settings = {key: value for key, value in eval_settings.items() if key not in ("method", "examples")}
        shots, method = cell.settings.get("few_shot"), eval_settings.get("method", "react")
        if shots:
            return settings | {"examples": shots} | ({"method": method} if "method" in eval_settings else {})
        names.resolve_plugin("method", method)
        if method not in ("react", self.study.shared.get("method")):  # a shared method is meant for the prompted cells
            raise ConfigError(
                f"the study {self.study.name}: the cell {cell.name!r} is fine-tuned and chooses its method itself; "
                f"method = {method!r} would be ignored. Leave it out, or prompt it with few_shot examples "
                "of it."
            )
        return settings

    def training_stage(self, cell: Cell) -> Stage:
        """The stage that fine-tunes a cell's model: here, or at the provider that the model's name begins with."""
        settings = cell.settings
        if is_provider_spec(cell.base):
            return self._hosted_training_stage(cell)
        recipe = read_recipe(
            str(settings.get("recipe", "default")),
            **{key: settings[key] for key in RECIPE_SETTINGS if key in settings},
            seed=cell.seed,
        )
        values: dict[str, Any] = {"student": cell.base, "recipe": recipe}
        if renderer := settings.get("renderer"):
            values["renderer"] = renderer
            if "tools" in settings:
                values["tools"] = settings["tools"]
        return self._build_stage("train", values, {"data": [self.mixture_stage(cell)]}, f"the cell {cell.name!r}")

    def _hosted_training_stage(self, cell: Cell) -> Stage:
        """The stage that fine-tunes a cell's model at a provider, which takes only epochs and a seed of a recipe."""
        settings, base = cell.settings, cell.base
        ignored = [key for key in settings if key in {"recipe", "renderer", *RECIPE_SETTINGS} - {"epochs"}]
        if ignored:
            raise ConfigError(
                f"the study {self.study.name}: the cell {cell.name!r} is fine-tuned at a provider ({base}), so "
                f"{' and '.join(ignored)} would be ignored; only epochs can be set. Set these for the other bases "
                "alone, as values of an axis."
            )
        prices = self.study.prices
        price = prices.get(f"trained_tokens:{base}", prices.get("trained_tokens"))
        values: dict[str, Any] = {"model": base, "seed": cell.seed}
        values |= {"epochs": epochs} if (epochs := settings.get("epochs")) is not None else {}
        values |= {} if price is None else {"price": price.value}
        return self._build_stage("tune", values, {"data": [self.mixture_stage(cell)]}, f"the cell {cell.name!r}")

    def mixture_stage(self, cell: Cell) -> Stage:
        """The stage that mixes a cell's data: all of it, or ``size`` trajectories drawn by the cell's seed."""
        values, location = dict(self.study.mixtures[cell.mixture]), f"mixtures.{cell.mixture}"
        kinds = {name: kind for name, kind in get_type_hints(MixConfig).items() if name != "sources"}
        check_fields(values, {"from": Sequence[str], **kinds}, f"the study {self.study.name}: {location}")
        origins: Sequence[str] = values.pop("from", ())
        if not origins:
            raise ConfigError(
                f"the study {self.study.name}: {location} has no data: from = names of collections, or files."
            )
        values["seed"] = cell.seed
        if (size := cell.settings.get("size")) is not None:
            values["n"] = size
        sources = [self.collection_stage(name) if name in self.study.collect else name for name in origins]
        return self._build_stage("mix", values, {"sources": sources}, location)

    def collection_stage(self, name: str) -> Stage:
        """The stage of the collection that ``[collect.NAME]`` describes."""
        return self._build_stage("collect", self.study.collect[name], {}, f"collect.{name}")

    def _build_stage(
        self, verb: str, values: Mapping[str, Any], inputs: Mapping[str, Sequence[Stage | str]], location: str
    ) -> Stage:
        kinds = {name: kind for name, kind in get_type_hints(load_verb(verb).config).items() if name not in inputs}
        plain_values = {key: value for key, value in values.items() if not is_dataclass(value)}
        check_fields(plain_values, kinds, f"the study {self.study.name}: {location}")
        filled = {
            name: [_fill_placeholders(entry, self.user_values) for entry in entries] for name, entries in inputs.items()
        }
        stage = Stage(
            verb, "", {key: _fill_placeholders(value, self.user_values) for key, value in values.items()}, filled
        )
        return Stage(verb, _stage_key(stage, values), stage.values, stage.inputs)


def placeholder_names(study: StudyFile) -> list[str]:
    """The names of all ``{NAME}`` in the study's settings."""
    texts = jsonl.dumps([study.shared, study.axes, study.collect, study.mixtures, list(study.cells)])
    return sorted(set(PLACEHOLDER.findall(texts)) - set(study.axes))


def placeholder_values(study: StudyFile, user_values: Mapping[str, str]) -> dict[str, str]:
    """The value of each ``{NAME}`` that has one: from the user, else from the environment."""
    pairs = (
        (name, user_values.get(name) or os.environ.get(f"FIREACT_{name.upper()}")) for name in placeholder_names(study)
    )
    return {name: value for name, value in pairs if value}


def missing_placeholders(study: StudyFile, user_values: Mapping[str, str]) -> list[str]:
    """The names of all ``{NAME}`` in the study's settings that have no value."""
    return [name for name in placeholder_names(study) if name not in placeholder_values(study, user_values)]


def _stage_key(stage: Stage, raw_values: Mapping[str, Any]) -> str:
    """A hash of all that the stage's result depends on; ``raw_values`` are its settings with ``{NAME}`` unfilled.

    Settings at their defaults are left out, so that a setting that is added later does not change the old keys.
    """
    settings = _changed_settings(stage.config(Path()))
    for name in load_verb(stage.verb).neutral:
        table, _, key = name.rpartition(".")
        (settings.get(table, {}) if table else settings).pop(key, None)
    for name, value in to_toml_table(raw_values).items():
        if PLACEHOLDER.search(str(value)):
            settings[name] = [value, _file_hashes(stage.values[name])]
    for name, entries in stage.inputs.items():
        settings[name] = [entry.key if isinstance(entry, Stage) else _hash_or_name(entry) for entry in entries]
    settings = {name: value for name, value in settings.items() if value != {}}
    return hashlib.sha256(jsonl.dumps([stage.verb, _sort_keys(settings)]).encode()).hexdigest()[:16]


def _changed_settings(config: Any) -> dict[str, Any]:
    """The settings that differ from their defaults, as plain values, and those that have none.

    Some defaults are chosen when a config is made (its tools, say), so they are those of a config made without them. A
    default that has changed counts as a value, and the earlier one as the default.
    """
    earlier = {
        entry.name: entry.metadata["earlier_default"] for entry in fields(config) if "earlier_default" in entry.metadata
    }
    is_required = {
        entry.name: entry.default is MISSING and entry.default_factory is MISSING for entry in fields(config)
    }
    defaults = type(config)(**{name: getattr(config, name) for name in is_required if is_required[name]})
    changed_values: dict[str, Any] = {}
    for name in is_required:
        value, default = getattr(config, name), earlier.get(name, getattr(defaults, name))
        if is_dataclass(value):
            changed_values[name] = _changed_settings(value)
        elif is_required[name] or to_toml_table({"": value}) != to_toml_table({"": default}):
            changed_values |= to_toml_table({name: value}) or {name: None}
    return changed_values


def _file_hashes(value: Any) -> list[str]:
    """The hashes of the files that a setting names, such as ``snippets:FILE`` or ``FILE:QUESTION,ANSWER``."""
    if isinstance(value, str):
        return [_hash_or_name(segment) for segment in value.split(":") if Path(segment).expanduser().is_file()]
    members = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [content_hash for member in members for content_hash in _file_hashes(member)]


def _hash_or_name(source: str) -> str:
    """The hash of a file; the source itself if it is no file, such as a model's name or a file still to come."""
    path = Path(source).expanduser()
    return f"sha256:{file_hash(path)}" if path.is_file() else source


def _sort_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sort_keys(value[key]) for key in sorted(value)}
    return [_sort_keys(item) for item in value] if isinstance(value, list | tuple) else value


def _fill_placeholders(value: Any, user_values: Mapping[str, str]) -> Any:
    """The value with each ``{NAME}`` filled in; a name without a value stays as it is."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(
            lambda match: user_values.get(match[1]) or os.environ.get(f"FIREACT_{match[1].upper()}") or match[0], value
        )
    if isinstance(value, Mapping):
        return {
            _fill_placeholders(key, user_values): _fill_placeholders(item, user_values) for key, item in value.items()
        }
    return [_fill_placeholders(item, user_values) for item in value] if isinstance(value, list | tuple) else value
