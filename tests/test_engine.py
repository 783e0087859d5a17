"""The engine writes what ``generate`` writes one by one, whoever shares its batches, and leaves no caller waiting."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fireact.errors import ConfigError, ProviderError  # noqa: E402
from fireact.models import attention  # noqa: E402
from fireact.models.engine import Engine, GenerationRequest, common_prefix_length  # noqa: E402
from fireact.models.packed import can_pack, pack_linears  # noqa: E402
from tiny import tiny_model  # noqa: E402

LIMIT = 2048


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory).eval()


def build(directory: Path, *, slots: int, ends: Sequence[int] = (), limit: int = LIMIT) -> Engine:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    return Engine(model, slots=slots, ends=ends, limit=limit)


@pytest.fixture
def engine(directory: Path) -> Iterator[Engine]:
    made = build(directory, slots=4)
    yield made
    made.close()


def expected(plain: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        found = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None
        )
    written: list[int] = found[0, len(prompt) :].tolist()
    return written


def together(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> list[GenerationRequest]:
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda prompt: engine.generate(prompt, max_tokens=tokens), prompts))


def prompts_of(count: int, *, shared: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    beginning = [draw.randrange(256) for _ in range(shared)]
    return [beginning + [draw.randrange(256) for _ in range(draw.randint(1, 60))] for _ in range(count)]


@pytest.mark.parametrize("shared", [0, 40, 900])
def test_concurrent_texts_equal_one_by_one_generate(plain: Any, directory: Path, shared: int) -> None:
    engine = build(directory, slots=6)
    prompts = prompts_of(13, shared=shared)
    found = together(engine, prompts, 12)
    engine.close()
    assert [request.generated for request in found] == [expected(plain, prompt, 12) for prompt in prompts]


@given(data=st.data())
def test_attention_over_slots_is_plain_attention_of_each_text(data: st.DataObject) -> None:
    draw = data.draw
    shared = draw(st.sampled_from([0, 5, 2100]))
    writing = [(slot, shared + draw(st.integers(0, 700))) for slot in sorted(draw(st.sets(st.integers(0, 5))))]
    free = [slot for slot in range(6) if slot not in {slot for slot, _ in writing}]
    stretch = st.tuples(st.sampled_from([0, 1, 130]), st.integers(1, 40))
    reading = [(slot, *draw(stretch)) for slot in free[: draw(st.integers(0 if writing else 1, 2))]]
    reading = reading or ([] if writing else [(0, 0, 3)])
    torch.manual_seed(draw(st.integers(0, 9)))
    kv = attention.KeyValueCache(6)
    kv.reserve(max([0, *(position for _, position in writing), *(start + tokens for _, start, tokens in reading)]) + 1)
    tokens = len(writing) + sum(stretch[2] for stretch in reading)
    query, key, value = torch.randn(1, 4, tokens, 8), torch.randn(1, 2, tokens, 8), torch.randn(1, 2, tokens, 8)
    keys, values = kv.rows(0, key, value)
    keys.normal_(), values.normal_()
    for rows in (keys, values):
        for slot, _ in writing:
            rows[slot, :, :shared] = rows[writing[0][0], :, :shared]
    plan = attention.plan_pass(kv, writing, reading, shared=shared, device=torch.device("cpu"))
    assert bool(plan.shared) == (shared == 2100 and len(writing) > 1)
    window = draw(st.sampled_from([None, 30, 2300]))
    block, options = SimpleNamespace(layer_idx=0), {"scaling": 0.3, "batch": plan, "sliding_window": window}
    found, _ = attention.attend(block, query, key, value, None, **options)
    at = 0
    for slot, start, count in [*((slot, position, 1) for slot, position in writing), *reading]:
        for index in range(count):
            reach = start + index + 1
            assert torch.equal(keys[slot, :, reach - 1], key[0, :, at])
            seen = slice(max(0, reach - (window or reach)), reach)
            mine, own = (rows[slot, :, seen].repeat_interleave(2, 0) for rows in kv.rows(0, key, value))
            odds = torch.softmax(mine @ query[0, :, at, :, None] * 0.3, dim=1)
            torch.testing.assert_close(found[0, at], (odds * own).sum(1), rtol=1e-4, atol=1e-4)
            at += 1


def test_growing_episodes_encode_only_what_is_new(plain: Any, engine: Engine) -> None:
    prompt, draw, known = prompts_of(1, shared=300)[0], random.Random(1), 0
    for _ in range(4):
        request = engine.generate(prompt, max_tokens=10)
        assert request.generated == expected(plain, prompt, 10)
        assert request.cached == known
        known = len(prompt) + len(request.generated) - 1  # the last token was never read
        prompt = prompt + request.generated + [draw.randrange(256) for _ in range(30)]


def test_a_common_beginning_is_encoded_once(engine: Engine) -> None:
    prompts = prompts_of(4, shared=700)
    cached = sorted(request.cached for request in together(engine, prompts, 5))
    assert cached[0] < 16
    assert all(count >= 700 - 16 for count in cached[1:])


def test_more_threads_than_slots(plain: Any, directory: Path) -> None:
    engine = build(directory, slots=2)
    prompts = prompts_of(24, shared=20, seed=5)
    found = together(engine, prompts, 6)
    engine.close()
    assert [request.generated for request in found] == [expected(plain, prompt, 6) for prompt in prompts]


def test_stops_at_an_end_token_and_counts_it(plain: Any, directory: Path) -> None:
    prompt = prompts_of(1, shared=30)[0]
    written = expected(plain, prompt, 20)
    end = written[7]
    engine = build(directory, slots=2, ends=[end])
    assert engine.generate(prompt, max_tokens=20).generated == written[: written.index(end) + 1]
    engine.close()


def test_stops_where_the_caller_says(plain: Any, engine: Engine) -> None:
    prompt = prompts_of(1, shared=10)[0]
    request = engine.generate(prompt, max_tokens=20, is_finished=lambda ids: len(ids) == 5)
    assert request.generated == expected(plain, prompt, 5)


def test_the_context_ends_a_text_and_refuses_a_prompt(directory: Path) -> None:
    engine = build(directory, slots=2, limit=50)
    assert len(engine.generate([1] * 45, max_tokens=20).generated) == 5
    with pytest.raises(ProviderError, match="a prompt of 50 tokens"):
        engine.generate([1] * 50, max_tokens=20)
    engine.close()


def test_a_temperature_draws_by_seed_whoever_else_writes(engine: Engine) -> None:
    prompt = prompts_of(1, shared=30, seed=9)[0]

    def draw(seed: int) -> list[int]:
        return engine.generate(prompt, max_tokens=12, temperature=1.0, seed=seed).generated

    alone = draw(7)
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(engine.generate, other, max_tokens=20) for other in prompts_of(4, shared=0)]
        again = pool.submit(draw, 7).result()
        assert [other.result() for other in others]
    assert alone == again
    assert len({tuple(draw(seed)) for seed in range(6)}) > 1


def test_a_failure_reaches_all_who_wait_and_the_engine_goes_on(plain: Any, engine: Engine) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("broken")

    prompts, forward = prompts_of(3, shared=0), engine._model
    engine._model = broken
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(engine.generate, prompt, max_tokens=400) for prompt in prompts]
        for one in waiting:
            with pytest.raises(ProviderError, match="ZeroDivisionError: broken"):
                one.result(timeout=600)
    engine._model = forward
    assert engine.generate(prompts[0], max_tokens=4).generated == expected(plain, prompts[0], 4)


def test_what_a_caller_raises_ends_its_own_text_alone(plain: Any, engine: Engine) -> None:
    def leave(ids: list[int]) -> bool:
        if len(ids) == 3:
            raise KeyboardInterrupt
        return False

    one, other = prompts_of(2, shared=0)
    with ThreadPoolExecutor(2) as pool:
        stays = pool.submit(engine.generate, other, max_tokens=8)
        leaves = pool.submit(engine.generate, one, max_tokens=8, is_finished=leave)
        with pytest.raises(KeyboardInterrupt):
            leaves.result(timeout=600)
        assert stays.result(timeout=600).generated == expected(plain, other, 8)


def test_closing_fails_who_waits(directory: Path) -> None:
    engine = build(directory, slots=1)
    begun = threading.Event()

    def note(ids: list[int]) -> bool:
        begun.set()
        return False

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(engine.generate, [1, 2, 3], max_tokens=2000, is_finished=note) for _ in range(2)]
        assert begun.wait(600)
        engine.close()
        for one in waiting:
            with pytest.raises(ProviderError, match="closed"):
                one.result(timeout=600)
    with pytest.raises(ProviderError, match="closed"):
        engine.generate([1], max_tokens=1)


def test_a_text_that_nobody_waits_for_frees_its_slot(plain: Any, directory: Path) -> None:
    engine = build(directory, slots=1)
    given_up: list[GenerationRequest] = []

    def note(ids: list[int]) -> bool:
        given_up.extend(slot.request for slot in engine._slots if slot.request is not None)
        given_up[0].cancelled = True  # what Ctrl-C in the waiting thread does
        return False

    thread = threading.Thread(target=lambda: engine.generate([5] * 20, max_tokens=2000, is_finished=note), daemon=True)
    thread.start()
    prompt = prompts_of(1, shared=5)[0]
    assert engine.generate(prompt, max_tokens=5).generated == expected(plain, prompt, 5)
    assert len(given_up[0].generated) < 2000
    engine.close()


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
    "qwen2": {}, "qwen3": {"head_dim": 32}, "mistral": {"sliding_window": None}, "granite": {"logits_scaling": 4.0},
    "mistral windowed": {"sliding_window": 100}, "gemma3_text windowed": {"sliding_window": 64, "head_dim": 16},
}  # fmt: skip
"""Families, of which granite and gemma keep transformers' own forward pass, and what sets each apart."""


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Any:
    """A random model of a family, without zeros where training would leave none."""
    config = transformers.AutoConfig.for_model(
        request.param.partition(" ")[0], vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, **FAMILIES[request.param],
    )  # fmt: skip
    if "gemma" not in request.param:
        config.rope_parameters.setdefault("rope_theta", 10000.0)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model


def predict(model: Any, prompts: Sequence[Sequence[int]]) -> Any:
    """The engine's logits after each prompt, read in chunks beside a text that is being written."""
    engine = Engine(model, slots=4, ends=[], limit=LIMIT)
    rows, writer = [], threading.Thread(target=engine.generate, args=([1, 2],), kwargs={"max_tokens": 60})
    writer.start()
    for prompt in prompts:
        keep = lambda ids, logits: rows.append(logits) or logits  # noqa: E731
        engine.generate(prompt, max_tokens=1, mask_logits=keep)
    writer.join()
    engine.close()
    return torch.stack(rows)


def test_logits_of_any_family_are_those_of_transformers(family: Any) -> None:
    prompts = prompts_of(4, shared=600)
    with torch.inference_mode():
        expected_logits = torch.stack([family(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    torch.testing.assert_close(predict(family, prompts), expected_logits, rtol=1e-3, atol=1e-3)


def test_bfloat16_is_as_near_to_float32_as_that_of_transformers(family: Any) -> None:
    prompts = prompts_of(6, shared=100)
    with torch.inference_mode():
        exact = torch.stack([family(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
        rounded = family.to(torch.bfloat16)
        plain_logits = torch.stack([rounded(torch.tensor([prompt])).logits[0, -1].float() for prompt in prompts])
    error = (predict(rounded, prompts) - exact).norm()
    assert error < 1.3 * (plain_logits - exact).norm()


def test_a_model_with_other_attention_is_refused() -> None:
    config = transformers.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ConfigError, match="needs plain attention"):
        Engine(transformers.MambaForCausalLM(config), slots=1, ends=[], limit=10)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_counts_the_ids_that_both_begin_with(beginning: list[int], one: list[int], other: list[int]) -> None:
    one, other = beginning + one, beginning + other
    count = common_prefix_length(one, other)
    assert one[:count] == other[:count]
    assert count == min(len(one), len(other)) or one[count] != other[count]


@pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch cannot pack")
def test_packed_layers_compute_and_differentiate_as_plain_ones() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 8, bias=False))
    one, other = (torch.randn(5, 7, 24) for _ in range(2))
    one.requires_grad_()
    wanted = plain(one)
    (wanted_gradient,) = torch.autograd.grad((wanted**2).sum(), one)
    other = one.detach().clone().requires_grad_()
    found = pack_linears(plain)(other)
    (gradient,) = torch.autograd.grad((found**2).sum(), other)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)
