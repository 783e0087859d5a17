"""Joined blocks and the chunked head compute the loss and the gradients of plain ones."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fireact.models.packed import can_pack  # noqa: E402
from fireact.render.tokens import IGNORED, Sample  # noqa: E402
from fireact.training import joined_blocks  # noqa: E402
from fireact.training.joined_blocks import HeadLoss, _Attention, can_join_blocks, join_blocks  # noqa: E402
from fireact.training.loss import TargetLoss  # noqa: E402
from fireact.training.memory import TARGETS_AT_A_TIME  # noqa: E402
from fireact.training.recipe import Recipe  # noqa: E402
from fireact.training.student import make_trainable  # noqa: E402

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch cannot pack")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "qwen2": {},
    "mistral": {"sliding_window": None, "head_dim": 24},
}


def adapt(family: str, recipe: Recipe) -> tuple[Any, int]:
    """A random student with a random adapter, and the number of its frozen blocks."""
    config = transformers.AutoConfig.for_model(
        family, vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, **FAMILIES[family],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.15)
    trained, frozen = make_trainable(model, recipe)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return trained, frozen


def make_samples(lengths: list[int]) -> list[Sample]:
    draw = random.Random(0)
    rows = [[draw.randrange(211) for _ in range(length)] for length in lengths]
    labels = [
        [token if index > 1 and draw.random() < 0.6 else IGNORED for index, token in enumerate(row)] for row in rows
    ]
    return [Sample(tuple(row), (*each[:-1], row[-1])) for row, each in zip(rows, labels, strict=True)]


def differentiate(model: Any, frozen: int, samples: list[Sample], *, is_joined: bool) -> tuple[Any, Any]:
    """The loss over all samples, and its gradient as one vector."""
    loss = TargetLoss(model, samples, frozen=frozen, is_joined=is_joined)
    total = loss(tuple(range(len(samples))))
    gradients = torch.autograd.grad(total, [each for each in model.parameters() if each.requires_grad])
    return total.detach(), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(
    "recipe", [Recipe(blocks=0), Recipe(blocks=2, rank=3, targets=("q_proj", "v_proj", "down_proj"))]
)
def test_loss_and_gradients_are_those_of_plain_blocks(
    family: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIREACT_BFLOAT16", "off")
    plain, frozen = adapt(family, recipe)
    joined, samples = copy.deepcopy(plain), make_samples([5, 300, 41, 290])
    expected = differentiate(plain, frozen, samples, is_joined=False)
    assert can_join_blocks(joined)
    join_blocks(joined, dtype=torch.float32)
    torch.testing.assert_close(differentiate(joined, frozen, samples, is_joined=True), expected, rtol=1e-4, atol=1e-5)


needs_bfloat16 = pytest.mark.skipif(
    not can_pack(torch.bfloat16), reason="this processor multiplies no packed weights in bfloat16"
)


@needs_bfloat16
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_in_bfloat16_they_are_as_near_to_float32(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, frozen = adapt(family, Recipe(blocks=0))
    joined, samples = copy.deepcopy(plain), make_samples([7, 300, 41])
    monkeypatch.setenv("FIREACT_BFLOAT16", "off")
    exact = differentiate(plain, frozen, samples, is_joined=False)
    monkeypatch.setenv("FIREACT_BFLOAT16", "on")
    rounded = differentiate(plain, frozen, samples, is_joined=False)
    join_blocks(joined, dtype=torch.bfloat16)
    found = differentiate(joined, frozen, samples, is_joined=True)
    assert (found[1] - exact[1]).norm() < 1.3 * (rounded[1] - exact[1]).norm()
    assert abs(found[0] - exact[0]) < 0.01 * exact[0]


@pytest.mark.parametrize("largest", [6, 18, 47])
def test_large_scores_do_not_coarsen_the_gradients_of_attention(largest: int) -> None:
    """Scores of a sharp head are large, and their rounding would be raised to a power."""
    torch.manual_seed(0)
    tokens, heads, key_heads, width = 300, 4, 2, 64
    shape = (1, tokens, (heads + 2 * key_heads) * width)
    values, gradient = torch.randn(shape).bfloat16().float(), torch.randn(1, tokens, heads * width).bfloat16().float()
    angles = torch.zeros(1, 1, tokens, width)
    by_head = values.view(1, tokens, -1, width).transpose(1, 2)
    scores = by_head[:, :heads] @ by_head[:, heads : heads + key_heads].repeat_interleave(2, 1).transpose(2, 3)
    options = (angles.cos(), angles.sin(), heads, width, largest / float(scores.abs().max()))

    def differentiate_attention(dtype: torch.dtype) -> torch.Tensor:
        joined = values.to(dtype).detach().requires_grad_()
        _Attention.apply(joined, *options).backward(gradient.to(dtype))
        assert joined.grad is not None
        return joined.grad.float()

    exact, rounded = map(differentiate_attention, (torch.float32, torch.bfloat16))
    assert (rounded - exact).norm() < 0.01 * exact.norm()


def test_a_sliding_window_keeps_plain_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES["mistral"], "sliding_window", 8)
    assert not can_join_blocks(adapt("mistral", Recipe())[0])


@pytest.mark.parametrize("recipe", [Recipe(kind="full"), Recipe(dropout=0.1)])
def test_trained_weights_and_dropout_keep_plain_blocks(recipe: Recipe) -> None:
    model, _ = adapt("llama", recipe)
    assert not can_join_blocks(model)


def test_a_mask_is_refused() -> None:
    model, _ = adapt("llama", Recipe())
    join_blocks(model, dtype=torch.float32)
    with pytest.raises(ValueError, match="no attention mask"):
        model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.tensor([[0, 1, 1]]))


@given(
    count=st.integers(1, 2 * TARGETS_AT_A_TIME + 3),
    bias=st.booleans(),
    weights=st.sampled_from(["none", "random"]),
    seed=st.integers(0, 9),
)
def test_the_chunked_loss_is_cross_entropy(count: int, bias: bool, weights: str, seed: int) -> None:
    torch.manual_seed(seed)
    head = torch.nn.Linear(24, 50, bias=bias)
    hidden, labels = torch.randn(count, 24, requires_grad=True), torch.randint(0, 50, (count,))
    factors = torch.ones(count) if weights == "none" else torch.rand(count)
    expected = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="none") @ factors
    (expected_gradient,) = torch.autograd.grad(3 * expected, hidden)
    found = HeadLoss(head, torch.float32)(hidden, labels, None if weights == "none" else factors)
    (gradient,) = torch.autograd.grad(3 * found, hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_attention_in_stretches_is_attention_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    values, gradient = torch.randn(2, 70, (4 + 2 * 2) * 8), torch.randn(2, 70, 4 * 8)
    cosine, sine = torch.rand(1, 1, 70, 4).repeat(1, 1, 1, 2), torch.rand(1, 1, 70, 4).repeat(1, 1, 1, 2)
    found = []
    for size in (1000, 32):
        monkeypatch.setattr(joined_blocks, "QUERIES_AT_A_TIME", size)
        joined = values.clone().requires_grad_()
        output = joined_blocks._Attention.apply(joined, cosine, sine, 4, 8, 0.3)
        found.append(torch.autograd.grad(output, joined, gradient)[0])
    torch.testing.assert_close(found[0], found[1])
