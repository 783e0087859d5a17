"""Scripts for schedulers: each is read by the scheduler's own rules, and run by a shell with its variables."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fireact
from fireact import cli
from fireact.errors import ConfigError
from fireact.rollout.shards import Shard

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (mkdocs-material of the extra dev brings it)")

QUESTION = """it's $HOME "quoted" `x` ü"""
WORDS = ["collect", "-t", "geo-hop", "-n", "4", "--teacher", QUESTION, "-o", "runs/my collect"]
SHARD = ["--shard", "3/16", "-o", "runs/my collect-3-of-16"]


def script(*words: str, **settings: Any) -> str:
    return str(fireact.launch(*(words or WORDS), **settings).value)


def run_shell(text: str, tmp_path: Path, **variables: str) -> list[str]:
    """The arguments that ``fireact`` gets where a shell runs a text."""
    tool = tmp_path / "fireact"
    tool.write_text('#!/bin/bash\nfor word in "$@"; do printf "%s\\0" "$word"; done\n')
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split("\0")[:-1]


def test_an_array_job_of_slurm_runs_each_shard(tmp_path: Path) -> None:
    text = script(slurm=True, shards=16, gpu="H100:2", setup="true")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    head = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert {"#SBATCH --array=1-16", "#SBATCH --requeue", "#SBATCH --gpus-per-node=h100:2"} <= set(head)
    assert text.splitlines()[0] == "#!/bin/bash" and text.splitlines()[1] == head[0]  # sbatch stops at a command
    assert run_shell(text, tmp_path, SLURM_ARRAY_TASK_ID="3") == [*WORDS[:-2], *SHARD]
    join = next(line for line in text.splitlines() if "fireact join" in line).partition("fireact ")[2]
    assert shlex.split(join) == ["join", "runs/my collect-*-of-16", "-o", "runs/my collect"]


def test_a_task_of_skypilot_is_one_by_its_own_rules(tmp_path: Path) -> None:
    text = script(sky=True, shards=16, gpu="H100:1", setup="pip install 'fireact[serve]'")
    task = yaml.safe_load(text)
    assert task["num_nodes"] == 16 and task["resources"]["use_spot"] is True
    variables = {"SKYPILOT_NODE_RANK": "2", "SKYPILOT_NUM_NODES": "16"}
    assert run_shell(task["run"], tmp_path, **variables) == [*WORDS[:-2], *SHARD]
    sky = pytest.importorskip("sky", reason="skypilot is not installed", exc_type=ImportError)
    parsed = sky.Task.from_yaml_config(dict(task))
    assert parsed.num_nodes == 16 and parsed.run.strip() == task["run"].strip()


def test_an_indexed_job_of_kubernetes_fits_its_schema(tmp_path: Path) -> None:
    job = yaml.safe_load(script(k8s=True, shards=16, gpu="2", setup="true"))
    spec, container = job["spec"], job["spec"]["template"]["spec"]["containers"][0]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", 16)
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    shell = container["command"]
    assert shell[:2] == ["bash", "-c"] and container["env"] == [{"name": "FIREACT_SHARDS", "value": "16"}]
    assert run_shell(shell[2], tmp_path, JOB_COMPLETION_INDEX="2") == [*WORDS[:-2], *SHARD]
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validate.validate(job, "1.30", strict=True)


@pytest.mark.parametrize("scheduler", ["slurm", "sky", "k8s"])
def test_one_machine_gets_the_whole_run(scheduler: str, tmp_path: Path) -> None:
    text = script("train", "runs/mix", "--epochs", "2", "-o", "runs/train", **{scheduler: True})
    assert "fireact train runs/mix --epochs 2 -o runs/train" in text and "--shard " not in text
    assert "Afterwards the run is in runs/train." in text and "--array" not in text


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["collect", "-o", "x"], {}, "give one of --slurm, --sky and --k8s"),
        (["collect", "-o", "x"], {"slurm": True, "sky": True}, "give one of"),
        (["colect", "-o", "x"], {"slurm": True}, "unknown verb 'colect'. Did you mean 'collect'"),
        (["collect"], {"slurm": True}, "give -o DIR"),
        (["train", "d", "-o", "x"], {"slurm": True, "shards": 4}, "train cannot be sharded"),
        (["collect", "-o", "x", "--force"], {"slurm": True}, "would delete what it did before"),
        (["collect", "-o", "x", "--shard=1/4"], {"slurm": True}, "launch numbers the shards itself"),
        (["collect", "-o", "x", "-t", "a\nb"], {"slurm": True}, "has a control character"),
        (["collect", "-o", "x"], {"slurm": True, "gpu": "H100"}, "or TYPE:NUMBER such as H100:1"),
        (["collect", "-o", "x"], {"sky": True, "gpu": "2"}, "SkyPilot needs the type of a GPU"),
        (["collect", "-o", "/data/x"], {"k8s": True}, "give -o relative to the claim, which is mounted at /work"),
        (["collect", "-o", "runs/../../x"], {"k8s": True, "shards": 2}, "give -o relative to the claim"),
    ],
)
def test_what_no_job_can_be_is_refused(words: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fireact.launch(*words, **settings)


def test_launch_on_the_command_line_checks_the_options_of_the_verb() -> None:
    words = ["launch", "--slurm", "collect", "-t", "geo-hop", "-n", "4", "--shards", "2", "-o", "runs/x"]
    done = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "fireact collect -t geo-hop -n 4 --shard" in done.stdout
    wrong = CliRunner().invoke(cli.app, ["launch", "--slurm", "collect", "--nosuch", "4", "-o", "runs/x"])
    assert wrong.exit_code == 2 and "--nosuch" in wrong.stderr and not wrong.stdout


def test_shards_of_every_scheduler_are_numbered_as_shards_are(tmp_path: Path) -> None:
    """The first is 1, the last is the number of all."""
    text = script("collect", "-o", "x", slurm=True, shards=4)
    shards = [run_shell(text, tmp_path, SLURM_ARRAY_TASK_ID=str(number))[2] for number in (1, 4)]
    assert [Shard.parse(shard).index for shard in shards] == [1, 4]
    command = yaml.safe_load(script("collect", "-o", "x", k8s=True, shards=4))["spec"]["template"]["spec"]
    shell = command["containers"][0]["command"][2]
    shards = [run_shell(shell, tmp_path, JOB_COMPLETION_INDEX=str(number))[2] for number in (0, 3)]
    assert [Shard.parse(shard).index for shard in shards] == [1, 4] and json.dumps(command)
