"""Tokens: what is asked at inference begins what was trained, and only the student's words are trained."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.errors import ConfigError, FormatError
from fireact.render.react import ReActRenderer
from fireact.render.tokens import (
    IGNORED,
    Sample,
    break_special_tokens,
    encode_chat,
    prompt_ids,
    special_tokens,
    tokenize,
)
from fireact.types import Action, Example, Message, Step, Trajectory, Usage
from small_tokenizers import FAMILIES
from small_tokenizers import tokenizer as family_tokenizer

pytest.importorskip("transformers")

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe brief<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRAINING_TEXT = [
    "Thought: I look up the country.\nAction: search[Chad]",
    "Observation: Chad lies in Africa.\n\n\n  1 2 3",
]


@cache
def tokenizer(template: str = CHATML) -> Any:
    """Byte-level BPE of 400 tokens: every text has ids, and runs of newlines merge as in real ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<file_sep>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator([CHATML, *TRAINING_TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=template,
        extra_special_tokens=["<|im_start|>", "<file_sep>"],
    )


pieces = st.sampled_from(
    [*special_tokens(tokenizer()), "<|im_", "end|>", "<", "|", "\n", "\n\n", "[", "]", "Action: ", "1"]
)
odd = st.lists(pieces | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6).map("".join)
words = odd.map(str.strip)  # what a student writes is stripped by the renderer
rounds = st.lists(st.tuples(odd, words), min_size=1, max_size=4)


def chat(turns: list[tuple[str, str]], system: str | None = None) -> list[Message]:
    first = [] if system is None else [Message("system", system)]
    return first + [m for ask, say in turns for m in (Message("user", ask), Message("assistant", say, train=True))]


def spans(sample: Sample) -> list[list[int]]:
    """The trained ids in their runs."""
    runs: list[list[int]] = [[]]
    for label in sample.labels:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


@given(rounds, st.none() | odd)
def test_what_inference_asks_at_each_step_begins_the_sample(turns: list[tuple[str, str]], system: str | None) -> None:
    messages = chat(turns, system)
    (sample,) = encode_chat(messages, tokenizer())
    for at, message in enumerate(messages):
        if message.train:
            asked = prompt_ids(messages[:at], tokenizer())
            assert list(sample.input_ids[: len(asked)]) == asked
            assert sample.labels[len(asked) - 1] == IGNORED
            assert sample.labels[len(asked)] != IGNORED


@given(rounds, st.none() | odd)
def test_trained_are_the_students_words_and_the_token_that_ends_its_turn(
    turns: list[tuple[str, str]], system: str | None
) -> None:
    (sample,) = encode_chat(chat(turns, system), tokenizer())
    trained = [tokenizer().decode(run, clean_up_tokenization_spaces=False) for run in spans(sample)]
    assert trained == [break_special_tokens(say, tokenizer()) + "<|im_end|>" for _, say in turns]
    assert all(label in (IGNORED, token) for token, label in zip(sample.input_ids, sample.labels, strict=True))
    assert sample.input_ids[-1] == sample.labels[-1] == tokenizer().eos_token_id
    assert sample.targets == sum(map(len, spans(sample)))


@given(rounds, st.none() | odd)
def test_no_text_becomes_a_special_token(turns: list[tuple[str, str]], system: str | None) -> None:
    messages = chat(turns, system)
    ids = encode_chat(messages, tokenizer())[0].input_ids
    turns_in_template = len(messages) + (system is None)  # the template puts a system turn of its own
    assert ids.count(tokenizer().eos_token_id) == turns_in_template
    assert ids.count(tokenizer().convert_tokens_to_ids("<|im_start|>")) == turns_in_template
    assert tokenizer().convert_tokens_to_ids("<file_sep>") not in ids


@given(odd)
def test_plain_takes_nothing_away_and_is_done_once(text: str) -> None:
    once = break_special_tokens(text, tokenizer())
    assert once.replace(" ", "") == text.replace(" ", "")
    assert break_special_tokens(once, tokenizer()) == once
    assert not any(token in once for token in special_tokens(tokenizer()))


@given(st.lists(st.tuples(words.filter(bool), odd), min_size=1, max_size=4))
def test_a_rendered_trajectory_is_asked_as_it_was_trained(steps: list[tuple[str, str]]) -> None:
    done = tuple(Step(thought, Action("search", {"query": "x"}), seen, thought) for thought, seen in steps)
    done += (Step("done", Action("finish", {"answer": "a"}), None, ""),)
    renderer, example = ReActRenderer(), Example("1", "Who?", "a")
    whole = Trajectory("t", example, "react", "m", 0, done, "finish", {}, Usage(), 0.0)
    (sample,) = encode_chat(renderer.sample(whole), tokenizer())
    for count in range(len(done)):
        asked = prompt_ids(renderer.prompt("Who?", done[:count]), tokenizer())
        assert list(sample.input_ids[: len(asked)]) == asked
        assert sample.labels[len(asked)] != IGNORED


def test_what_is_not_marked_is_not_trained() -> None:
    messages = [
        Message("user", "q"),
        Message("assistant", "shown"),
        Message("user", "r"),
        Message("assistant", "own", True),
    ]
    assert [tokenizer().decode(run) for run in spans(encode_chat(messages, tokenizer())[0])] == ["own<|im_end|>"]
    assert [sample.targets for sample in encode_chat(messages[:3], tokenizer())] == [0]


def test_an_end_that_inference_stops_at_counts_as_the_end() -> None:
    messages = chat([("q", "own")])
    other = tokenizer().convert_tokens_to_ids("<file_sep>")
    both = {other, tokenizer().eos_token_id}
    assert encode_chat(messages, tokenizer(), ends=both)[0].input_ids[-1] == tokenizer().eos_token_id
    with pytest.raises(FormatError, match="does not end message 1"):
        encode_chat(messages, tokenizer(), ends={other})


def test_a_template_that_rewrites_earlier_turns_gives_one_sample_a_turn() -> None:
    numbering = tokenizer(CHATML.replace("message['role']", "(messages|length)|string"))
    messages = chat([("q", "own"), ("r", "more")])
    samples = encode_chat(messages, numbering)
    assert len(samples) == 2
    for sample, at, word in zip(samples, (1, 3), ("own", "more"), strict=True):
        asked = prompt_ids(messages[:at], numbering)
        assert list(sample.input_ids[: len(asked)]) == asked
        assert [numbering.decode(run) for run in spans(sample)] == [f"{word}<|im_end|>"]


def test_words_that_would_melt_into_the_prompt_are_trained_as_they_are_generated() -> None:
    messages = chat([("q", "\n\n\n\nown")])
    (sample,) = encode_chat(messages, tokenizer())
    asked = prompt_ids(messages[:1], tokenizer())
    assert list(sample.input_ids[: len(asked)]) == asked
    assert [tokenizer().decode(run) for run in spans(sample)] == ["\n\n\n\nown<|im_end|>"]


def test_a_tokenizer_without_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        prompt_ids([Message("user", "q")], tokenizer(""))


def test_a_step_of_weight_0_is_context_and_nothing_else() -> None:
    """Its tokens stay in the sample, so that training still sees what inference sends; none of them is a label."""
    steps = (
        Step("t", Action("search", {"query": "a"}), "None", "", weight=0.0),
        Step("t", Action("search", {"query": "b"}), "seen", ""),
        Step("t", Action("finish", {"answer": "a"}), None, ""),
    )
    episode = Trajectory("t", Example("i", "Q?", "a"), "react", "m", 0, steps, "finish", {}, Usage(), 0.0)
    whole = tuple(replace(step, weight=1.0) for step in steps)
    (sample,) = encode_chat(ReActRenderer().sample(episode), tokenizer())
    (plainly,) = encode_chat(ReActRenderer().sample(replace(episode, steps=whole)), tokenizer())
    assert sample.input_ids == plainly.input_ids
    trained = tokenizer().decode([label for label in sample.labels if label != IGNORED])
    assert "search[ b]" in trained and "search[ a]" not in trained and trained.endswith("<|im_end|>")
    first = prompt_ids(ReActRenderer().prompt("Q?", steps[:1]), tokenizer())
    assert list(sample.input_ids[: len(first)]) == first and set(sample.labels[: len(first)]) == {IGNORED}


@cache
def reader(kind: str) -> Any:
    """A tokenizer that reads the beginning of a text, or spaces beside a special token, in a way of its own."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = {
        "metaspace first": pre_tokenizers.Metaspace(prepend_scheme="first"),
        "metaspace always": pre_tokenizers.Metaspace(prepend_scheme="always"),
    }.get(kind, pre_tokenizers.ByteLevel(add_prefix_space=kind == "prefix space"))
    if kind == "prepended":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator([CHATML, *TRAINING_TEXT], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    options = {"lstrip": kind == "takes left", "rstrip": kind == "takes right", "single_word": kind == "word"}
    special = [AddedToken(text, special=True, normalized=False, **options) for text in special_tokens(tokenizer())]
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", chat_template=CHATML)


READERS = ("metaspace first", "metaspace always", "prefix space", "prepended", "takes left", "takes right", "word")


@pytest.mark.parametrize("name", [*FAMILIES, *READERS])
@given(data=st.data())
def test_a_text_read_in_parts_has_the_ids_of_the_whole(name: str, data: st.DataObject) -> None:
    whole = family_tokenizer(name) if name in FAMILIES else reader(name)
    part = st.sampled_from(
        [*special_tokens(whole), *FAMILIES["qwen3"].tags, " ", "  ", "\n", "a", "Chad", "é", "<|", "1"]
    )
    text = data.draw(st.lists(part, max_size=12).map("".join))
    assert tokenize(text, whole) == whole(text, add_special_tokens=False)["input_ids"]


def test_the_turns_of_a_long_chat_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenizer(f"{CHATML}{{# long #}}")
    read, original = list[str](), type(whole).__call__

    def read_counted(self: Any, text: str, **options: Any) -> Any:
        read.append(text)
        return original(self, text, **options)

    monkeypatch.setattr(type(whole), "__call__", read_counted)
    (sample,) = encode_chat(chat([(f"where is {number}?", f"at {number}") for number in range(60)]), whole)
    assert sum(map(len, read)) < 3 * len(whole.decode(sample.input_ids))  # not all of them again for each turn
