"""The command ``launch``: a script that runs a verb as a job of Slurm, SkyPilot or Kubernetes. It runs nothing.

A job that is killed or moved is started again by its scheduler with the same command, and a verb that is run again
resumes; so no script needs a word about checkpoints. Invariant: an argument of the verb reaches it as it was typed,
whatever characters it has, and each shard has a directory of its own.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fireact.base.settings import CheckedSettings, setting
from fireact.base.verbs import VERBS, Command, load_verb
from fireact.errors import ConfigError, unknown_name_error
from fireact.rollout.shards import SHARDS

if TYPE_CHECKING:
    from fireact.pipeline.result import Result

KEYS_SECRET = "fireact-keys"
"""The secret of Kubernetes whose entries are the keys of endpoints."""
_REFUSED = {
    "--shard": "launch numbers the shards itself; give --shards N",
    "--force": "a job that is started again would delete what it did before",
    "--dry-run": "a job shall run",
}


@dataclass(frozen=True, slots=True)
class LaunchConfig(CheckedSettings):
    """Settings of ``launch``."""

    words: Sequence[str] = setting(metavar="VERB...")
    """A verb with its options, as for this machine; -o is a directory that every machine reaches."""
    _: KW_ONLY
    slurm: bool = setting(False, panel="Scheduler")
    """A script for sbatch: an array job that is requeued."""
    sky: bool = setting(False, panel="Scheduler")
    """A task for SkyPilot: a node a shard, on spot machines."""
    k8s: bool = setting(False, panel="Scheduler")
    """An indexed Job for Kubernetes."""
    shards: int = setting(1, low=1, high=10_000)
    """How many machines; each runs a shard of collect or eval."""
    gpu: str = setting("", panel="Machine")
    """GPUs of each machine: a number, or TYPE:NUMBER such as H100:1."""
    hours: int = setting(24, low=1, panel="Machine")
    """The longest time of a job of Slurm."""
    setup: str = setting("", panel="Machine")
    """A command of the shell that runs first, such as 'pip install fireact'."""
    image: str = setting("python:3.12", panel="Machine")
    """The container's image, for Kubernetes."""
    claim: str = setting("runs", panel="Machine")
    """The persistent volume claim of Kubernetes that holds the directory -o."""

    def __post_init__(self) -> None:
        CheckedSettings.__post_init__(self)
        if [self.slurm, self.sky, self.k8s].count(True) != 1:
            raise ConfigError("launch: give one of --slurm, --sky and --k8s.")
        if self.gpu and not re.fullmatch(r"([A-Za-z][\w-]*:)?[1-9]\d?", self.gpu):
            raise ConfigError(f"launch: gpu is {self.gpu!r}; it must be a number, or TYPE:NUMBER such as H100:1.")
        if self.sky and self.gpu.isdigit():
            raise ConfigError("launch: SkyPilot needs the type of a GPU: --gpu H100:1, say.")


@dataclass(frozen=True, slots=True)
class JobCommand:
    """The command of a job: the words of the verb without its directory, the directory, and how many shards."""

    words: Sequence[str]
    out: str
    shards: int

    @classmethod
    def parse(cls, words: Sequence[str], shards: int) -> JobCommand:
        """Read the words of a verb. Raises ConfigError for a verb or an option that no job can have."""
        if not words or words[0] not in VERBS:
            raise unknown_name_error("verb", words[0] if words else "", VERBS)
        if shards > 1 and load_verb(words[0]).join is None:
            raise ConfigError(f"{words[0]} cannot be sharded; leave --shards out. collect and eval can.")
        kept, out, remaining = [], "", list(words)
        while remaining:
            word = remaining.pop(0)
            name, separator, value = word.partition("=")
            if name in _REFUSED:
                raise ConfigError(f"launch: leave {name} out: {_REFUSED[name]}.")
            if re.search(r"[\x00-\x1f\x7f]", word):
                raise ConfigError(f"launch: {word!r} has a control character, which no script holds.")
            if name == "--out" or word == "-o":
                out = value if separator else (remaining.pop(0) if remaining else "")
            else:
                kept.append(word)
        if not out:
            raise ConfigError("launch: give -o DIR, a directory that every machine reaches.")
        return cls(kept, out, shards)

    @property
    def name(self) -> str:
        """The name of the job."""
        return f"fireact-{self.words[0]}"

    def to_shell(self, index: str) -> str:
        """The command for the shell, where ``index`` is an expression for the number of the shard, from 1."""
        command = f"fireact {shlex.join(self.words)}"
        if self.shards == 1:
            return f"{command} -o {shlex.quote(self.out)}"
        return f'{command} --shard "{index}/{self.shards}" -o {shlex.quote(self.out)}-"{index}"-of-{self.shards}'

    @property
    def join_text(self) -> str:
        """The command that joins the shards, and what to do where there is one machine alone."""
        if self.shards == 1:
            return f"Afterwards the run is in {self.out}."
        directories = " ".join(
            shlex.quote(f"{self.out}-{index}-of-{self.shards}") for index in range(1, min(self.shards, 3) + 1)
        )
        every = f"{shlex.quote(self.out)}-*-of-{self.shards}" if self.shards > 3 else directories
        return f"Afterwards: fireact join {every} -o {shlex.quote(self.out)}"


def write_job(config: LaunchConfig) -> Result:
    """The script that runs a verb as a job of a scheduler; nothing is run. The value is the text."""
    from fireact.pipeline.result import Result

    command = JobCommand.parse(config.words, config.shards)
    writers: Mapping[str, Callable[[LaunchConfig, JobCommand], str]] = {
        "slurm": _write_slurm_script, "sky": _write_sky_task, "k8s": _write_kubernetes_job,
    }  # fmt: skip
    scheduler = next(name for name in writers if getattr(config, name))
    return Result(writers[scheduler](config, command), f"{command.name} on {config.shards} machines, for {scheduler}")


def _write_slurm_script(config: LaunchConfig, command: JobCommand) -> str:
    """An array job that is requeued; its log stands in the working directory."""
    array = [f"--array=1-{command.shards}"] if command.shards > 1 else []
    options = [
        f"--job-name={command.name}", *array, "--requeue", "--open-mode=append", f"--time={config.hours}:00:00",
        f"--output={command.name}-%{'A-%a' if array else 'j'}.log", "--nodes=1", "--ntasks=1",
        *([f"--gpus-per-node={config.gpu.lower()}"] if config.gpu else []),
    ]  # fmt: skip
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            f"# {command.join_text}",
            "set -euo pipefail",
            f"cd {shlex.quote(str(Path.cwd()))}",
            *([config.setup] if config.setup else []),
            command.to_shell("$SLURM_ARRAY_TASK_ID"),
        ]
    )


def _write_sky_task(config: LaunchConfig, command: JobCommand) -> str:
    """A task with a node a shard; ``sky jobs launch`` starts it anew where a spot machine is taken away."""
    accelerators = f"\n  accelerators: {json.dumps(config.gpu)}" if config.gpu else ""
    return "\n".join(
        [
            f"# sky jobs launch FILE. {command.join_text}",
            f"name: {command.name}",
            f"num_nodes: {command.shards}",
            f"resources:\n  use_spot: true{accelerators}",
            *([f"setup: {json.dumps(config.setup, ensure_ascii=False)}"] if config.setup else []),
            f"run: |\n  {command.to_shell('$((SKYPILOT_NODE_RANK + 1))')}",
        ]
    )


def _write_kubernetes_job(config: LaunchConfig, command: JobCommand) -> str:
    """An indexed Job whose pods share a volume; a pod that is lost is made anew, and resumes.

    Raises ConfigError for a directory that is not on the volume, where its files would be lost with the pod.
    """
    path = PurePosixPath(command.out)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"launch: give -o relative to the claim, which is mounted at /work; {path} may lie outside.")
    shell = " && ".join([*([config.setup] if config.setup else []), command.to_shell("$((JOB_COMPLETION_INDEX + 1))")])
    gpus = config.gpu.rpartition(":")[2]
    limits = [f'          resources: {{limits: {{"nvidia.com/gpu": {gpus}}}}}'] if gpus else []
    return "\n".join(
        [
            f"# kubectl apply -f FILE. {command.join_text}",
            "apiVersion: batch/v1",
            "kind: Job",
            f"metadata: {{name: {command.name}}}",
            "spec:",
            "  completionMode: Indexed",
            f"  completions: {command.shards}",
            f"  parallelism: {command.shards}",
            f"  backoffLimit: {6 * command.shards}",
            "  template:",
            "    spec:",
            "      restartPolicy: OnFailure",
            "      containers:",
            "        - name: fireact",
            f"          image: {json.dumps(config.image)}",
            "          workingDir: /work",
            f'          command: ["bash", "-c", {json.dumps(shell, ensure_ascii=False)}]',
            f'          env: [{{name: {SHARDS}, value: "{command.shards}"}}]',
            f"          envFrom: [{{secretRef: {{name: {KEYS_SECRET}, optional: true}}}}]",
            "          volumeMounts: [{name: runs, mountPath: /work}]",
            *limits,
            "      volumes:",
            f"        - {{name: runs, persistentVolumeClaim: {{claimName: {json.dumps(config.claim)}}}}}",
        ]
    )


LAUNCH = Command(
    "launch", LaunchConfig, write_job, command_line="fireact.cli.using:launch_command", json_help="",
    passes_options=True,
    details="Nothing is run: give the script to sbatch, sky jobs launch or kubectl apply. A job that is started again\n"
    "resumes. Keys of endpoints come from the environment of the job, and never stand in the script.",
    example="`fireact launch collect -t geo-hop -n 4000 -o runs/collect --slurm --shards 16 > job.sh`",
)  # fmt: skip
