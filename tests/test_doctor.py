"""The doctor: every kind of finding is found in a line that has it, and in no other; the repaired copy has no
errors."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import fireact
from fakes import GOOD, Echo, Small, agent, trajectory
from fireact.base import jsonl
from fireact.base.redact import find_sensitive, redact
from fireact.base.run_directory import read_trajectories
from fireact.data import MixConfig, mix
from fireact.data.contamination import load_held_out_sets, prepare_evaluation_set, read_questions
from fireact.data.doctor import DoctorConfig, diagnose_data
from fireact.data.duplicates import compute_minhash, find_near_duplicates, jaccard_similarity
from fireact.data.findings import KINDS, Bounds, check_trajectory
from fireact.data.repair import write_repaired_copy
from fireact.data.sources import TrajectoryFile
from fireact.data.steps import find_faults
from fireact.errors import ConfigError, DataError
from fireact.render.messages import messages_from_steps
from fireact.rollout.episodes import Episode, run_episodes
from fireact.terminal.data_tables import print_diagnosis
from fireact.types import Action, Example, Step, Trajectory

KEY = "sk-" + "a1B2" * 8


def search(query: str, observation: str, **more: Any) -> Step:
    thought = more.pop("thought", f"I look for {query}.")
    return Step(thought, Action("search", {"query": query}), observation, f"Action: search[{query}]", **more)


def finish(answer: str, thought: str = "That is it.") -> Step:
    return Step(thought, Action("finish", {"answer": answer}), None, f"Action: finish[{answer}]")


def sound(index: int, *steps: Step, question: str = "", answer: str = "Lima", **more: Any) -> Trajectory:
    names = (
        "Abel",
        "Bea",
        "Cyril",
        "Dora",
        "Emil",
        "Frida",
        "Gus",
        "Hanna",
        "Ivo",
        "Jana",
        "Karl",
        "Lea",
        "Max",
        "Nina",
    )
    who = names[index % len(names)]
    whole = steps or (search(f"{who} {index}", f"{who} was born in Lima in {1900 + index}."), finish(answer))
    asked = question or f"{who} number {index} wrote {index * 7} books; where did {who} first see the light of day?"
    return replace(trajectory(index), example=Example(f"x-{index}", asked, answer), steps=whole, **more)


def write(path: Path, *rows: Trajectory | str) -> str:
    lines = [row if isinstance(row, str) else jsonl.dumps(row.to_dict()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


LONG = (
    search(
        "a", "Lima.", thought="First I look for the place that the old books speak of, since nobody alive remembers it."
    ),
    finish(
        "Lima", thought="The passage names the town of the old books and nothing speaks against it. The answer is Lima."
    ),
)
BAD: dict[str, Trajectory | str] = {
    "unreadable": '{"task":"small","exam',
    "repeated episode": sound(1),
    "secret": sound(50, search("50", f"It said {KEY}. Lima."), finish("Lima")),
    "fault": replace(sound(64), stop="error", error="OSError: down"),
    "no action": sound(
        51, Step("what now", None, "No action found.", "what now"), search("51", "Lima."), finish("Lima")
    ),
    "unknown tool": sound(
        52,
        Step("t", Action("google", {"query": "x"}), "Unknown action google. Use ...", ""),
        search("52", "Lima"),
        finish("Lima"),
    ),
    "nothing to learn": sound(53, replace(search("53", "Lima"), weight=0.0)),
    "exact duplicate": replace(sound(2), seed=9),
    "near duplicate": sound(62, *LONG, question="Where was it, so long ago, and who can tell?"),
    "repeated action": sound(54, search("54", "Lima"), search("54", "Lima", thought="again"), finish("Lima")),
    "repeated thought": sound(
        55, search("55", "Lima", thought="hm"), search("56", "Lima", thought="hm"), finish("Lima")
    ),
    "empty thought": sound(56, search("57", "Lima", thought=" "), finish("Lima")),
    "long observation": sound(57, search("58", "Lima " * 500), finish("Lima")),
    "too long": sound(58, *(search(f"58 {n}", f"Lima {n} " + "x" * 1900) for n in range(4)), finish("Lima")),
    "unsupported answer": sound(59, search("60", "Nothing."), finish("Lima")),
    "leaked answer": sound(60, question="Sixty: in Lima, which town is meant here?"),
    "e-mail address": sound(61, search("61", "Write to jo@example.org, Lima."), finish("Lima")),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_each_kind_is_found_in_its_line_and_alone(kind: str, tmp_path: Path) -> None:
    rows = [sound(index) for index in range(5)]
    rows.append(sound(63, *LONG, question="Where was it, so long ago, and who can say?"))
    path = write(tmp_path / "a.jsonl", *rows, BAD[kind])
    found = diagnose_data(DoctorConfig(path))
    assert [(finding.kind, finding.lines) for finding in found.findings] == [(kind, (7,))]
    assert found.sound == (KINDS[kind].level == "warning")


def test_sound_data_has_no_findings_and_its_counts(tmp_path: Path) -> None:
    found = diagnose_data(DoctorConfig(write(tmp_path / "a.jsonl", *(sound(index) for index in range(6)))))
    assert found.findings == () and found.sound and found.n == 6
    assert found.groups["small/react"].correct == 6 and found.stops == {"finish": 6} and found.steps == {2: 6}
    assert 0 < found.tokens.trained_share < 1 and "estimate" in found.tokenizer
    assert json.loads(json.dumps(found.to_dict()))["sound"] is True


def test_a_repaired_copy_has_no_errors_and_a_log_of_every_change(tmp_path: Path) -> None:
    rows = [sound(index) for index in range(6)]
    path = write(tmp_path / "a.jsonl", *rows, *BAD.values(), sound(70, question="Where, pray, is the town of Utopia?"))
    (tmp_path / "eval.jsonl").write_text('{"question": "where, pray, is the town of Utopia"}\n')
    config = DoctorConfig(path, against=(str(tmp_path / "eval.jsonl"),))
    before = Path(path).read_bytes()
    assert not diagnose_data(config).sound
    manifest = write_repaired_copy(config, tmp_path / "fixed")
    assert Path(path).read_bytes() == before and write_repaired_copy(config, tmp_path / "fixed") == manifest
    after = diagnose_data(DoctorConfig(str(tmp_path / "fixed"), against=config.against))
    assert after.sound and not {"e-mail address", "exact duplicate"} & {finding.kind for finding in after.findings}
    changes = list(jsonl.read_objects(tmp_path / "fixed" / "changes.jsonl"))
    dropped = {change["line"] for change in changes if change["change"] == "left out"}
    assert dropped == {8, 10, 13, 14, 24}
    assert [change["line"] for change in changes if change["change"] == "unreadable"] == [7]
    assert manifest["history"][0].endswith(": 23 (1 lines unreadable)")
    assert manifest["history"][-1] == "doctor --fix: 23 -> 18"
    assert manifest["remaining"] == {finding.kind: finding.count for finding in after.findings}
    text = (tmp_path / "fixed" / "trajectories.jsonl").read_text() + (tmp_path / "fixed" / "changes.jsonl").read_text()
    assert KEY not in text and "jo@example.org" not in text and "[key removed]" in text
    kept = {one.key: one for one in read_trajectories(tmp_path / "fixed")}
    assert [step.weight for step in kept["small/x-51/react/0"].steps] == [0, 1, 1]
    assert kept[rows[0].key] == rows[0] and manifest["history"][-1].startswith("doctor --fix: ")


def test_faults_are_those_that_the_methods_answer() -> None:
    """Whoever rewords what ``methods.react`` answers to a faulty action finds out here."""
    replies = (
        "Thought: x",
        "Action: google[x]",
        'Action: search[{"a": "b"}]',
        "Action: search[x]",
        "Action: search[x]",
    )
    (one,) = run_episodes(
        [Episode(task=Small(), example=Small().examples("train")[0], agent=agent(*replies))], workers=1
    )
    assert find_faults(one.steps)[:4] == ["no action", "unknown tool or arguments", "unknown tool or arguments", None]
    (good,) = run_episodes([Episode(task=Small(), example=Small().examples("train")[0], agent=agent(*GOOD))], workers=1)
    assert (
        find_faults(good.steps) == [None, None]
        and find_faults(good.steps, tools=["lookup"])[0]
        and Echo().name == "search"
    )


def test_asking_again_after_noise_is_no_repeat() -> None:
    steps = [search("x", "None", noise="none"), search("x", "Lima"), search("x", "Lima")]
    assert find_faults(steps) == ["disturbed observation", None, "repeated action"]


def test_secrets_are_said_without_being_told() -> None:
    text = f"{KEY} and ghp_{'a' * 36}, AKIA{'Q' * 16}; a.b@mail.example.com, not an@address, @me, skill-set, gh_x"
    found = list(find_sensitive(text))
    assert [kind for kind, _ in found] == ["secret"] * 3 + ["e-mail address"]
    assert not any(KEY[4:] in what or "a.b@" in what for _, what in found)
    clean = redact({"a": [text], "n": 1, "none": None})
    assert list(find_sensitive(clean["a"][0])) == [] and clean["n"] == 1 and redact(clean) == clean


def test_no_message_tells_a_secret_that_it_quotes(tmp_path: Path) -> None:
    """A key is blotted out before a text is cut: half of one would not be recognised, and is half told."""
    call = Action(f"call-{KEY}", {"x": "y"})
    rows: list[Trajectory | str] = [
        '{"key": "' + KEY + '", "exam',
        json.dumps({KEY: 1}),
        replace(sound(1), stop="error", error=f"AuthError: Incorrect API key provided: {KEY}"),
        sound(2, Step("t", None, None, KEY), finish("Lima")),
        sound(3, search("3", "Lima", thought=KEY), search("4", "Lima", thought=KEY), finish("Lima")),
        sound(4, search("5", "Nothing."), finish(KEY)),
        sound(5, question=f"Is it {KEY}?", answer=KEY),
        sound(6, Step("t", call, "Unknown action x. Use ...", ""), search("6", "Lima"), finish("Lima")),
    ]
    config = DoctorConfig(write(tmp_path / "a.jsonl", *rows))
    found = diagnose_data(config)
    assert {finding.kind: finding.lines for finding in found.findings}["secret"] == tuple(range(1, 9))
    write_repaired_copy(config, tmp_path / "fixed")
    with pytest.raises(DataError, match="line 1") as refused:
        mix(MixConfig((config.data,)), tmp_path / "mixed")
    said = [json.dumps(found.to_dict()), str(found.drops), str(refused.value)]
    said += [file.read_text() for file in (tmp_path / "fixed").iterdir() if file.is_file()]
    assert not any(KEY[4:8] in text for text in said)


@given(st.text(), st.text(), st.lists(st.text(), max_size=4))
def test_the_checks_are_total(question: str, answer: str, texts: list[str]) -> None:
    steps = tuple(Step(text, Action(text, {"x": text}), text, text) for text in texts)
    one = replace(trajectory(0), example=Example("x", question, answer), steps=steps)
    assert {kind for kind, _ in check_trajectory(one, Bounds())} <= set(KINDS)
    compute_minhash(question), jaccard_similarity(question, answer)


def test_near_duplicates_among_many() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{n}" for n in range(500)]
    texts = [" ".join(draw.choice(words, 60)) for _ in range(200)]
    for index in range(0, 200, 10):
        changed = texts[index].split()
        changed[0] = "changed"
        texts.append(" ".join(changed))
    found = find_near_duplicates(
        np.stack([compute_minhash(text) for text in texts]), texts.__getitem__, lambda one, other: one >= 0
    )
    assert [(one, other) for one, other, _ in found] == [(index, 200 + index // 10) for index in range(0, 200, 10)]
    assert all(alike == jaccard_similarity(texts[one], texts[other]) for one, other, alike in found)


def test_overlap_needs_the_pattern_and_the_names() -> None:
    pattern = "Which is the capital of the country whose currency is the {} and whose language is {}?"
    filled = [("krone", "Danish"), ("sol", "Quechua"), ("yen", "Japanese"), ("naira", "Hausa"), ("rand", "Zulu")]
    known = prepare_evaluation_set("eval", [pattern.format(*pair) for pair in filled])
    assert known.overlaps(pattern.format("krone", "Danish").upper())
    assert known.overlaps("Say, w" + pattern.format("yen", "Japanese")[1:])
    assert not known.overlaps(pattern.format("dong", "Vietnamese")) and not known.overlaps("Who?")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"question": "Who?"}\n\n{"example": {"question": "Why?"}}\n'),
        ("a.json", '[{"Question": "Who?"}, {"question": "Why?"}]'),
        ("a.csv", "id,Question\n1,Who?\n2,Why?\n"),
    ],
)
def test_evaluation_questions_are_read_from_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_questions(tmp_path / name) == ["Who?", "Why?"]


def test_held_out_splits_of_the_tasks_are_looked_up_by_themselves(tmp_path: Path) -> None:
    from fireact.rollout.loading import load_task

    task = load_task("geo-hop")
    rows = [replace(sound(0), task="geo-hop", example=example) for example in task.examples("train")[:300]]
    rows.append(replace(sound(0), task="geo-hop", example=task.examples("test")[5]))
    found = diagnose_data(DoctorConfig(write(tmp_path / "a.jsonl", *rows)))
    (overlap,) = [finding for finding in found.findings if finding.kind == "contaminated"]
    assert (overlap.lines, overlap.example) == ((301,), "geo-hop test") and {"geo-hop dev", "geo-compose test"} <= set(
        found.notes[0].replace(":", ",").split(", ")
    )
    with pytest.raises(ConfigError, match="unknown task"):
        diagnose_data(DoctorConfig(found.data, against=("geo-hob",)))


def test_tokens_are_those_of_the_student_where_one_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny import tiny_tokenizer

    tiny_tokenizer().save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "config.json").write_text('{"model_type": "llama"}')
    rows = [sound(0), replace(sound(1), steps=(replace(sound(1).steps[0], weight=0.0), sound(1).steps[1]))]
    student = str(tmp_path / "student")
    whole, half = (
        diagnose_data(DoctorConfig(write(tmp_path / "a.jsonl", row), student=student, max_length=10_000))
        for row in rows
    )
    assert whole.tokenizer == student and half.tokens.trained < whole.tokens.trained < whole.tokens.total


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no trajectories"):
        diagnose_data(DoctorConfig(write(tmp_path / "a.jsonl")))


def test_on_the_command_line(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return fireact("doctor", *arguments, cwd=tmp_path)

    write(tmp_path / "good.jsonl", *(sound(index) for index in range(3)), BAD["empty thought"])
    write(tmp_path / "bad.jsonl", sound(1), BAD["secret"])
    good, bad = run("good.jsonl"), run("bad.jsonl")
    assert good.returncode == 0 and "lines 4" in good.stdout and "No errors" in good.stdout
    assert bad.returncode == 1 and "lines 2" in bad.stdout and KEY not in bad.stdout + bad.stderr
    assert json.loads(run("bad.jsonl", "--json").stdout)["findings"][0]["kind"] == "secret"
    assert run("bad.jsonl", "--fix", "-o", "fixed").returncode == 0 and run("fixed").returncode == 0


def test_what_fix_does_not_mend_is_said_and_exits_1(tmp_path: Path) -> None:
    """A key whose name and value stand in two strings is found, but no one string tells what to blot out."""
    told = {"aws_secret_access_key": "=" + "a1B2" * 10}
    act = replace(search("x", "Lima."), action=Action("search", {"query": "x", **told}))
    write(tmp_path / "bad.jsonl", sound(1, act, finish("Lima")))
    done = fireact("doctor", "bad.jsonl", "--fix", "-o", "fixed", cwd=tmp_path)
    assert done.returncode == 1 and "errors are left that --fix does not mend: secret" in done.stderr


def test_a_call_that_cannot_be_read_is_an_error_and_is_not_learned(tmp_path: Path) -> None:
    said = ["<tool_call>search " + KEY + "</tool_call>", "Lima"]
    turns = [{"role": "user", "content": "Q?"}, *({"role": "assistant", "content": text} for text in said)]
    (tmp_path / "h.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    told = diagnose_data(DoctorConfig(str(tmp_path / "h.jsonl")))
    (found,) = (one for one in told.findings if one.kind == "unread-tool-call")
    assert (found.level, found.count, found.lines) == ("error", 1, (1,)) and KEY[:12] not in found.example
    manifest = write_repaired_copy(DoctorConfig(str(tmp_path / "h.jsonl")), tmp_path / "fixed")
    assert manifest["changes"]["unread-tool-call"] == 1
    assert [step.weight for step in next(read_trajectories(tmp_path / "fixed")).steps] == [0.0, 1.0]
    assert diagnose_data(DoctorConfig(str(tmp_path / "fixed"))).sound


def test_a_turn_with_a_bad_call_weighs_nothing_wherever_it_is_written(tmp_path: Path) -> None:
    good = search("x", "Lima.")
    bad = replace(search("y", "what?", thought=""), action=Action("nosuch", {"query": "y"}), joined=True)
    write(tmp_path / "a.jsonl", sound(1, good, bad, finish("Lima")))
    write_repaired_copy(DoctorConfig(str(tmp_path / "a.jsonl"), tools=("search",)), tmp_path / "fixed")
    (kept,) = read_trajectories(tmp_path / "fixed")
    assert [step.weight for step in kept.steps] == [0.0, 0.0, 1.0]
    why = [row["why"] for row in jsonl.read_objects(tmp_path / "fixed" / "changes.jsonl")]
    assert why == ["step 1: in one turn with a bad call", "step 2: unknown tool or arguments"]
    told = messages_from_steps("Q?", [good, replace(bad, weight=0.0), finish("Lima")])
    assert [one.get("weight") for one in told if one["role"] == "assistant"] == [0.0, None]


@pytest.mark.parametrize(
    ("answer", "found"), [("Zebulon", True), ("queens", False), ("It is a page about many kings", False)]
)
def test_a_short_answer_without_a_gold_one_is_looked_for_too(answer: str, found: bool) -> None:
    one = sound(1, search("x", "The page is about queens."), finish(answer), answer="")
    assert ("unsupported answer" in {kind for kind, _ in check_trajectory(one, Bounds())}) == found


def test_a_failed_try_does_not_take_the_good_one_with_it(tmp_path: Path) -> None:
    good = sound(3)
    failed = replace(good, stop="error", error="timeout", steps=good.steps[:1])
    write_repaired_copy(DoctorConfig(write(tmp_path / "a.jsonl", failed, good)), tmp_path / "fixed")
    (kept,) = read_trajectories(tmp_path / "fixed")
    assert kept.stop == good.stop and kept.steps == good.steps


def test_examples_that_are_named_by_addresses_stay_apart(tmp_path: Path) -> None:
    rows = [replace(sound(at), example=replace(sound(at).example, id=f"{at}@example.com")) for at in range(2)]
    write_repaired_copy(DoctorConfig(write(tmp_path / "a.jsonl", *rows)), tmp_path / "fixed")
    ids = {one.example.id for one in read_trajectories(tmp_path / "fixed")}
    assert len(ids) == 2 and not any("@" in one for one in ids)


def test_what_a_user_says_between_turns_is_no_fault() -> None:
    asked = Step("", None, "On Monday.", "Which day?")
    assert find_faults((asked, finish("booked"))) == [None, None]
    assert find_faults((replace(asked, observation=None),)) == ["no action"]


def test_a_torn_file_of_another_format_is_diagnosed(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Action: finish[a]"}]}\n'
    (tmp_path / "torn.jsonl").write_text(row + '{"messages": [\n' + row.replace('"q"', '"another question"'))
    config = DoctorConfig(str(tmp_path / "torn.jsonl"))
    found = {finding.kind: finding.lines for finding in diagnose_data(config).findings}
    assert found["unreadable"] == (2,)
    # the unreadable row is not taken for the second of the episodes that were read
    manifest = write_repaired_copy(config, tmp_path / "fixed")
    assert [one.example.question for one in read_trajectories(tmp_path / "fixed")] == ["q", "another question"]
    assert manifest["changes"] == {"unreadable": 1} and manifest["history"][-1] == "doctor --fix: 2 -> 2"


def test_held_out_questions_that_are_not_there_are_said_not_to_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIREACT_DATA", raising=False)
    load_held_out_sets.cache_clear()
    rows = [replace(sound(at), task=task) for at, task in enumerate(("strategyqa", "mmlu", "sys:exit"))]
    config = DoctorConfig(write(tmp_path / "a.jsonl", *rows))
    found = diagnose_data(config)
    (silent,) = found.to_dict()["findings"]
    assert (silent["kind"], silent["level"], silent["count"]) == ("not compared", "warning", 2)
    assert "mmlu: its questions are not on this machine; strategyqa" in silent["example"] and found.sound
    assert any("not compared: sys:exit: no task of that name" in note for note in found.notes)
    (tmp_path / "q.jsonl").write_text('{"question": "Who?"}\n')
    assert not diagnose_data(replace(config, against=(str(tmp_path / "q.jsonl"),))).findings


@pytest.mark.parametrize("wrong", [{"max_length": -3}, {"max_observation": 0}, {"workers": -2}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"it must be (at least|0 or more)"):
        DoctorConfig("a.jsonl", **wrong)


@pytest.mark.parametrize("renderer", ["react", "tool_calls", "alpaca"])
def test_tokens_are_those_that_train_would_see_with_the_renderer(renderer: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from fireact.training.samples import Rendering
    from tiny import tiny_tokenizer

    tiny_tokenizer().save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "config.json").write_text('{"model_type": "llama"}')
    student, data = str(tmp_path / "student"), write(tmp_path / "a.jsonl", sound(0), sound(1))
    tools = ("search",)
    found = diagnose_data(DoctorConfig(data, student=student, renderer=renderer, max_length=10_000, tools=tools))
    made = list(Rendering(Path(data), renderer=renderer, student=student, tools=tools).preview_samples())
    assert found.tokens.total == sum(one.tokens for one in made)
    assert found.tokens.trained == sum(one.trained for one in made)
    guessed = [diagnose_data(DoctorConfig(data, renderer=name)).tokens.trained for name in ("react", "tool_calls")]
    assert guessed[1] > 0.5 * guessed[0]  # calls count, though they stand beside the words


def test_tokens_of_a_model_without_a_generation_config_are_those_of_training(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from fireact.models.weights import load_tokenizer
    from fireact.training.samples import Rendering
    from fireact.training.student import load_student
    from tiny import tiny_model, tiny_tokenizer

    tiny_model(tmp_path / "student")  # its config alone tells that <|im_end|> ends a turn
    (tmp_path / "student" / "generation_config.json").unlink()
    tokenizer = tiny_tokenizer()
    end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path / "student")
    student, data = str(tmp_path / "student"), write(tmp_path / "a.jsonl", sound(0), sound(1))
    assert end in load_tokenizer(student)[1] and load_tokenizer(student)[1] == load_student(student)[2]
    diagnosis = diagnose_data(DoctorConfig(data, student=student, max_length=10_000))
    samples = list(Rendering(Path(data), student=student).preview_samples())
    assert diagnosis.tokens.total == sum(sample.tokens for sample in samples)
    assert diagnosis.tokens.trained == sum(sample.trained for sample in samples)


def test_calls_that_nothing_is_known_to_check_against_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", sound(0), sound(1), sound(2, finish("Lima"), meta={"tools": [{"name": "x"}]}))
    assert any("tools not known in 2 episodes" in note for note in diagnose_data(DoctorConfig(path)).notes)
    assert not any("tools not known" in note for note in diagnose_data(DoctorConfig(path, tools=("search",))).notes)


def test_a_file_without_a_readable_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = diagnose_data(DoctorConfig(write(tmp_path / "a.jsonl", '{"task":"small","exam')))
    print_diagnosis(found, as_json=False)
    assert "No line is a trajectory." in (shown := capsys.readouterr().out) and "Stopped" not in shown
    assert write_repaired_copy(DoctorConfig(found.data), tmp_path / "fixed")["history"][-1] == "doctor --fix: 0 -> 0"


def test_a_directory_of_files_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    def digest() -> str:
        return TrajectoryFile(tmp_path / "in", tmp_path / "temporary.jsonl", converted=True).digest

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.parquet").write_bytes(b"1")
    before = digest()
    (tmp_path / "temporary.jsonl").write_text("{}\n")
    assert digest() == before
    (tmp_path / "in" / "one.parquet").write_bytes(b"2")
    assert digest() != before
