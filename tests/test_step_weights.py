"""Weights of steps: how much the loss of a step's tokens counts, from a line of a file to the loss itself."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import trajectory
from fireact.base import jsonl
from fireact.base.run_directory import parse_trajectory
from fireact.data import MixConfig
from fireact.errors import ConfigError, DataError, FormatError
from fireact.hosted.training_rows import training_row
from fireact.render.react import ReActRenderer
from fireact.render.tokens import IGNORED, Sample, encode_chat
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.training.samples import Rendering
from fireact.types import Step, Trajectory

pytest.importorskip("transformers")
pytest.importorskip("torch")
from tiny import tiny_model, tiny_tokenizer


def weighing(*weights: float) -> Trajectory:
    whole = trajectory(1, steps=len(weights))
    return replace(
        whole, steps=tuple(replace(step, weight=one) for step, one in zip(whole.steps, weights, strict=True))
    )


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_no_number_from_0_is_refused(weight: float) -> None:
    with pytest.raises(FormatError, match=r"steps.weight is .*; it must be a finite number from 0"):
        parse_trajectory(jsonl.dumps(weighing(1.0, weight).to_dict()).encode())
    with pytest.raises(ConfigError, match="weigh_bad"):
        MixConfig(("a",), weigh_bad=weight)


@pytest.mark.parametrize("renderer", [ReActRenderer(), ToolCallsRenderer()])
def test_the_weight_of_a_step_is_that_of_its_turn(renderer: ReActRenderer | ToolCallsRenderer) -> None:
    messages = [message for message in renderer.sample(weighing(0.5, 0.0, 2.0)) if message.role == "assistant"]
    assert [(message.train, message.weight) for message in messages] == [(True, 0.5), (False, 1.0), (True, 2.0)]


def test_calls_of_one_turn_have_the_least_of_their_weights() -> None:
    first, second, last = weighing(1.0, 0.5, 1.0).steps
    assert isinstance(first, Step)
    joined = replace(weighing(1.0), steps=(first, replace(second, joined=True, thought="", text=""), last))
    turns = [message for message in ToolCallsRenderer().sample(joined) if message.role == "assistant"]
    assert [message.weight for message in turns] == [0.5, 1.0]


def encoded(*weights: float) -> Sample:
    (sample,) = encode_chat(ReActRenderer().sample(weighing(*weights)), tiny_tokenizer())
    return sample


def test_every_trained_token_has_the_weight_of_its_step() -> None:
    plain, first, weighed = encoded(1, 1), encoded(1, 0), encoded(0.5, 1)
    assert plain.weights == first.weights == () and plain.weight == plain.targets
    assert weighed.input_ids == plain.input_ids and weighed.labels == plain.labels
    half = first.targets
    assert weighed.weights == (0.5,) * half + (1.0,) * (plain.targets - half)
    assert weighed.weight == plain.targets - half / 2


def test_the_loss_of_a_token_counts_with_its_weight(tmp_path: Path) -> None:
    """Half the weight is half the loss and half the gradient, and the mean is over the weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from fireact.training.loss import TargetLoss

    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "tiny", layers=1, hidden=32))
    loss = TargetLoss(model, [encoded(1, 0), encoded(0, 1), encoded(0.5, 1), encoded(1, 1)], frozen=0)
    loss.bfloat16 = False
    first, second, weighed, plain = (loss.sum_loss((at,)) for at in range(4))
    torch.testing.assert_close(first + second, plain)
    torch.testing.assert_close(first / 2 + second, weighed)
    both = loss((2, 3))
    torch.testing.assert_close(both, (weighed + plain) / (loss.total_weight((2,)) + loss.count_targets((3,))))
    head = model.model.embed_tokens.weight
    found, wanted = (
        torch.autograd.grad(one, head)[0]
        for one in (loss.sum_loss((2,)), loss.sum_loss((0,)) / 2 + loss.sum_loss((1,)))
    )
    torch.testing.assert_close(found, wanted)


def test_weights_are_written_for_other_trainers(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny", layers=1, hidden=32)
    jsonl.write_objects(tmp_path / "a.jsonl", [weighing(0.5, 1).to_dict(), replace(weighing(1, 1), seed=1).to_dict()])
    rendering = Rendering(tmp_path / "a.jsonl", student=str(tmp_path / "tiny"))
    rendering.write(tmp_path / "tokens.jsonl")
    weighed, plain = jsonl.read_objects(tmp_path / "tokens.jsonl")
    assert weighed["weights"] == list(encoded(0.5, 1).weights) and "weights" not in plain
    assert len(weighed["weights"]) == sum(label != IGNORED for label in weighed["labels"])
    rendering.write(tmp_path / "messages.jsonl", "messages")
    row, _ = jsonl.read_objects(tmp_path / "messages.jsonl")
    assert [message.get("weight") for message in row["messages"] if message["role"] == "assistant"] == [0.5, None]


def test_hosted_training_refuses_fractions() -> None:
    with pytest.raises(DataError, match="providers know 0 and 1"):
        training_row(weighing(0.5, 1))
