"""The stages behind a cell: collect, mix, train (tune at a provider), eval; each a verb with settings, in a directory that is named by them.

    ROOT/collect/4f0c...  ROOT/mix/91aa...  ROOT/train/07d2...  ROOT/tune/5e1b...  ROOT/eval/c3b1...

Invariant: a stage's key is a hash of all settings that its result depends on, with the keys of the stages before it and
the hashes of foreign files in place of their paths; so equal work has one directory, wherever that lies and whichever
study asked for it. Folders, and files that are named by their whole path, count by their names. Nothing is run here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fireact import jsonl, names
from fireact.collection import FREE as SAMPLED_FREELY
from fireact.collection import CollectConfig
from fireact.data import MixConfig
from fireact.errors import ConfigError
from fireact.evaluation.run import EvalConfig
from fireact.hosted.run import FREE as TUNED_FREELY
from fireact.hosted.run import KINDS as PROVIDERS
from fireact.hosted.run import TuneConfig
from fireact.models.limits import Endpoint
from fireact.store import MANIFEST, file_hash, plain
from fireact.study.cells import EVALUATION, RECIPE, Cell
from fireact.study.file import StudyFile
from fireact.study.shape import fit_fields
from fireact.training.recipe import read_recipe
from fireact.training.run import FREE as TRAINED_FREELY
from fireact.training.run import TrainConfig

_FREE = {
    "collect": SAMPLED_FREELY, "mix": ("workers",), "train": TRAINED_FREELY, "tune": TUNED_FREELY, "eval": SAMPLED_FREELY,
}  # fmt: skip
_CLASS: Mapping[str, type[Any]] = {
    "collect": CollectConfig, "mix": MixConfig, "train": TrainConfig, "tune": TuneConfig, "eval": EvalConfig,
}  # fmt: skip
T = TypeVar("T")
PLACEHOLDER = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True, slots=True)
class Stage:
    """A verb, its key, its settings as plain values, and the stages whose directories they name.

    ``inputs`` maps a setting ("sources", "data", "agent") to the stages, and files, that it stands for.
    """

    verb: str
    key: str
    values: Mapping[str, Any]
    inputs: Mapping[str, Sequence[Stage | str]] = field(default_factory=dict)

    @property
    def needs(self) -> list[Stage]:
        """The stages before this one."""
        return [one for found in self.inputs.values() for one in found if isinstance(one, Stage)]

    def path(self, root: Path) -> Path:
        return root / self.verb / self.key

    def done(self, root: Path) -> bool:
        return (self.path(root) / MANIFEST).is_file()

    def config(self, root: Path) -> Any:
        """The verb's settings with the directories of the stages before it."""
        values = dict(self.values)
        for name, found in self.inputs.items():
            places = [str(one.path(root)) if isinstance(one, Stage) else one for one in found]
            values[name] = tuple(places) if name == "sources" else places[0]
        if isinstance(values.get("endpoint"), Mapping):
            values["endpoint"] = Endpoint(**values["endpoint"])
        return _CLASS[self.verb](**values)

    @property
    def student(self) -> str:
        """What a stage of train or tune fine-tunes; empty for the others."""
        return str(self.values.get("student") or self.values.get("model") or "")

    @property
    def epochs(self) -> int:
        """How often a stage of train or tune goes over its data."""
        config = self.config(Path())
        return int(config.epochs if self.verb == "tune" else config.recipe.epochs)

    @property
    def pays_searches(self) -> bool:
        """Whether its searches are paid for one by one."""
        return any(spec.rpartition(":")[2] == "serpapi" for spec in self.values.get("tools", ()))

    def chain(self) -> Iterator[Stage]:
        """The stages before this one and itself, in the order in which they are run."""
        for one in self.needs:
            yield from one.chain()
        yield self


def specific(table: Mapping[str, T], name: str, stage: Stage) -> T | None:
    """What a table of prices or rates has for a stage: by the kind of its recipe, else its base, else whatever the stage."""
    kinds = [stage.values["recipe"].kind] if "recipe" in stage.values else []
    students = [one.student for one in stage.chain() if one.student]
    for part in (*kinds, *students, *stage.inputs.get("agent", ())):
        if f"{name}:{part}" in table:
            return table[f"{name}:{part}"]
    return table.get(name)


@dataclass(frozen=True, slots=True)
class Resolver:
    """Makes stages for the cells of a study; ``given`` are the user's values for ``{NAME}`` in settings."""

    study: StudyFile
    given: Mapping[str, str] = field(default_factory=dict)

    def evaluation(self, cell: Cell) -> Stage:
        """The last stage of a cell. Raises ConfigError for settings that cannot be used."""
        chosen = {key: value for key, value in cell.settings.items() if key in EVALUATION}
        if cell.tuned:
            chosen = self._tuned_asked(cell, chosen)
        if noise := cell.settings.get("noise"):
            chosen["tools"] = [f"noise:{noise}:{tool}" for tool in chosen.get("tools", EvalConfig(agent="").tools)]
        agent: Stage | str = self.training(cell) if cell.tuned else str(cell.settings.get("base", "smollm2-135m"))
        return self._stage("eval", chosen, {"agent": [agent]}, f"the cell {cell.name!r}")

    def _tuned_asked(self, cell: Cell, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """How a fine-tuned agent is asked: without examples, by the method that it chooses itself, unless it is few-shot prompted."""
        own = {key: value for key, value in chosen.items() if key not in ("method", "examples")}
        shots, method = cell.settings.get("few_shot"), chosen.get("method", "react")
        if shots:
            return own | {"examples": shots} | ({"method": method} if "method" in chosen else {})
        names.resolve("method", method)
        if method not in ("react", self.study.shared.get("method")):  # what all share is for those that are prompted
            raise ConfigError(
                f"the study {self.study.name}: the cell {cell.name!r} is fine-tuned and chooses its method itself; "
                f"method = {method!r} would be ignored. Leave it out, or prompt it with few_shot examples of that method."
            )
        return own

    def training(self, cell: Cell) -> Stage:
        """The stage that fine-tunes a cell's model: here, or at the provider that the model is named by."""
        given = cell.settings
        if str(given.get("base", "")).partition(":")[0] in PROVIDERS:
            return self._hosted_training(cell)
        recipe = read_recipe(
            str(given.get("recipe", "default")), **{key: given[key] for key in RECIPE if key in given}, seed=cell.seed
        )
        values: dict[str, Any] = {"student": given.get("base", "smollm2-135m"), "recipe": recipe}
        if "renderer" in given:
            values |= {"renderer": given["renderer"], "tools": given.get("tools", ("search",))}
        return self._stage("train", values, {"data": [self.mixture(cell)]}, f"the cell {cell.name!r}")

    def _hosted_training(self, cell: Cell) -> Stage:
        """The stage that fine-tunes a cell's model at its provider, who takes epochs and a seed and nothing else of a recipe."""
        given, base = cell.settings, str(cell.settings["base"])
        ignored = [key for key in given if key in {"recipe", "renderer", *RECIPE} - {"epochs"}]
        if ignored:
            raise ConfigError(
                f"the study {self.study.name}: the cell {cell.name!r} is fine-tuned at a provider ({base}), so "
                f"{' and '.join(ignored)} would be ignored; epochs can be set. Give what is for other bases with them, as "
                "values of an axis."
            )
        prices = self.study.prices
        price = prices.get(f"trained_tokens:{base}", prices.get("trained_tokens"))
        values: dict[str, Any] = {"model": base, "seed": cell.seed}
        values |= {"epochs": given["epochs"]} if "epochs" in given else {}
        values |= {} if price is None else {"price": price.value}
        return self._stage("tune", values, {"data": [self.mixture(cell)]}, f"the cell {cell.name!r}")

    def mixture(self, cell: Cell) -> Stage:
        """The stage that mixes a cell's data: all of it, or ``size`` trajectories drawn by the cell's seed."""
        values, where = dict(self.study.mixtures[cell.settings["mixture"]]), f"mixtures.{cell.settings['mixture']}"
        kinds = {name: kind for name, kind in get_type_hints(MixConfig).items() if name != "sources"}
        fit_fields(values, {"from": Sequence[str], **kinds}, f"the study {self.study.name}: {where}")
        origins: Sequence[str] = values.pop("from", ())
        if not origins:
            raise ConfigError(
                f"the study {self.study.name}: {where} has no data: from = names of collections, or files."
            )
        values["seed"] = cell.seed
        if "size" in cell.settings:
            values["n"] = cell.settings["size"]
        sources = [self.collection(name) if name in self.study.collect else name for name in origins]
        return self._stage("mix", values, {"sources": sources}, where)

    def collection(self, name: str) -> Stage:
        """The stage that collects what ``[collect.NAME]`` says."""
        return self._stage("collect", self.study.collect[name], {}, f"collect.{name}")

    def _stage(
        self, verb: str, values: Mapping[str, Any], inputs: Mapping[str, Sequence[Stage | str]], where: str
    ) -> Stage:
        kinds = {name: kind for name, kind in get_type_hints(_CLASS[verb]).items() if name not in inputs}
        written = {key: value for key, value in values.items() if not is_dataclass(value)}
        fit_fields(written, kinds, f"the study {self.study.name}: {where}")
        filled = {name: [_filled(one, self.given) for one in found] for name, found in inputs.items()}
        stage = Stage(verb, "", {key: _filled(value, self.given) for key, value in values.items()}, filled)
        return Stage(verb, _key(stage, values), stage.values, stage.inputs)


def wanted(study: StudyFile) -> list[str]:
    """The names of the values that the study's settings use."""
    texts = jsonl.dumps([study.shared, study.axes, study.collect, study.mixtures, list(study.cells)])
    return sorted(set(PLACEHOLDER.findall(texts)) - set(study.axes))


def values_of(study: StudyFile, given: Mapping[str, str]) -> dict[str, str]:
    """The values that the study's settings use: what the user gave, else what the environment has."""
    named = ((name, given.get(name) or os.environ.get(f"FIREACT_{name.upper()}")) for name in wanted(study))
    return {name: value for name, value in named if value}


def absent(study: StudyFile, given: Mapping[str, str]) -> list[str]:
    """The names of the values that the study's settings use and nobody gave."""
    return [name for name in wanted(study) if name not in values_of(study, given)]


def _key(stage: Stage, written: Mapping[str, Any]) -> str:
    """Names what the stage's result depends on; ``written`` are its settings with ``{NAME}`` as it stands in the file.

    Settings at their defaults are left out, so that a new one does not rename all that was done before there was it.
    """
    settings = _changed(stage.config(Path()))
    for name in _FREE[stage.verb]:
        table, _, key = name.rpartition(".")
        (settings.get(table, {}) if table else settings).pop(key, None)
    for name, value in plain(written).items():
        if PLACEHOLDER.search(str(value)):
            settings[name] = [value, _held(stage.values[name])]
    for name, found in stage.inputs.items():
        settings[name] = [one.key if isinstance(one, Stage) else _content(one) for one in found]
    settings = {name: value for name, value in settings.items() if value != {}}
    return hashlib.sha256(jsonl.dumps([stage.verb, _sorted(settings)]).encode()).hexdigest()[:16]


def _changed(config: Any) -> dict[str, Any]:
    """The settings that are not at their defaults, as plain values."""
    found: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        if is_dataclass(value):
            found[entry.name] = _changed(value)
        elif default is MISSING or plain({"": value}) != plain({"": default}):
            found |= plain({entry.name: value})
    return found


def _held(value: Any) -> list[str]:
    """The hashes of the files that a setting names, such as ``snippets:FILE`` or ``FILE:QUESTION,ANSWER``."""
    if isinstance(value, str):
        return [_content(part) for part in value.split(":") if Path(part).expanduser().is_file()]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [one for part in parts for one in _held(part)]


def _content(source: str) -> str:
    """A foreign file by what it holds; what is no file (a model's name, a file that is not there yet) by its name."""
    path = Path(source).expanduser()
    return f"sha256:{file_hash(path)}" if path.is_file() else source


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value


def _filled(value: Any, given: Mapping[str, str]) -> Any:
    """The value with what the user gave for each ``{NAME}`` in it; what nobody gave stays as it is."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(
            lambda match: given.get(match[1]) or os.environ.get(f"FIREACT_{match[1].upper()}") or match[0], value
        )
    if isinstance(value, Mapping):
        return {_filled(key, given): _filled(one, given) for key, one in value.items()}
    return [_filled(one, given) for one in value] if isinstance(value, list | tuple) else value
