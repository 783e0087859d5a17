"""``scripted:expert``: a script that acts as the teacher in the embedded world; it is not a language model.

It knows the chain of facts of each question, but moves to the next fact only when an observation holds this one. It
searches, reads, searches again in other words where a value is missing, and finishes. It makes mistakes on purpose, so
that filtering by reward has an effect. The question and the seed decide which mistakes:

    a hop begins with one bad query and recovers           BAD_QUERY_SHARE of episodes
    a hop begins with STRUGGLE bad queries and recovers    STRUGGLE_SHARE of episodes; a reflection cuts it short
    a wrong answer at the end                              WRONG_ANSWER_SHARE; WRONG_RECALL_SHARE without searching

Invariant: a reply depends only on the messages and the seed. Its usage counts words, not tokens. It answers "unknown"
to a question that is not from the world.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

from fireact.errors import unknown_name_error
from fireact.models.expert_replies import write_step
from fireact.render.react import OBSERVATION, REFLECT, REFLECTION, ReActRenderer
from fireact.types import FINISH, Call, Completion, Example, Message, Step, Usage
from fireact.world.facts import Fact, Split
from fireact.world.questions import SHAPES, WorldMeta, generate_examples

BAD_QUERY_SHARE = 0.1
STRUGGLE_SHARE = 0.04
STRUGGLE = 3
WRONG_ANSWER_SHARE = 0.12
WRONG_RECALL_SHARE = 0.3

FIND_COUNTRY = ("country with {noun} {value}", "{noun} {value}", "{noun} {value} country")
FIND_VALUE = ("{country} {noun}", "{noun} of {country}", "{noun} in {country}")
VAGUE = ("list of countries by {noun}", "what is a {noun}", "countries of the world", "{noun} facts")
ASTRAY = ("history of {country}", "{country} flag", "famous people from {country}", "list of countries by {noun}")
FIRST = ("I need {need}{then}.", "First I need {need}{then}.", "I look for {need}{then}.")
NEXT = ("{known} Now I need {need}{then}.", "{known} Next I need {need}{then}.", "{known} I still need {need}{then}.")
AGAIN = (
    "That did not help. I try other words for {need}{then}.",
    "This does not help. I search again for {need}{then}.",
    "That is not it. I still need {need}{then}.",
)
REFLECTED = ("So I search for {need}{then}.", "I look for {need}{then}.", "This time I ask for {need}{then}.")
FAILED = (
    "My queries were too vague, so nothing fitted; I should name {named} and ask for the {noun}.",
    "I asked for the wrong thing; the query should hold {named} and {noun}.",
    "What I searched for did not mention {named}; I should put {named} and {noun} in the query.",
)


@dataclass(frozen=True, slots=True)
class Expert:
    """The scripted teacher (the module's docstring describes its behaviour and mistakes)."""

    name: str = "scripted:expert"
    constrains = True

    def complete(self, call: Call) -> Completion:
        """The next reply in the form that the call asks for, a tool call in tags; ``usage`` counts words.

        Raises ConfigError where no tool is offered that takes a text.
        """
        is_json_alone = call.form is not None and call.form.json_schema is not None and not call.tools
        text = write_reply(call.messages, call.seed, searches=not is_json_alone)
        step = ReActRenderer().parse(text)
        if step.action is not None:  # a reflection has none
            text = write_step(step, text, call)
        for string in call.stop:
            text = text.split(string, 1)[0]
        prompt_words = sum(len(message.content.split()) for message in call.messages)
        usage = Usage(calls=1, prompt_tokens=prompt_words, completion_tokens=len(text.split()))
        return Completion(text=text, usage=usage, finish="stop", seconds=0.0)


def from_name(name: str, *, slots: int = 16) -> Expert:
    """The LM behind ``scripted:NAME``. Raises ConfigError for an unknown name."""
    if name != "expert":
        raise unknown_name_error("scripted teacher", f"scripted:{name}", ["scripted:expert"])
    return Expert()


@cache
def known_questions() -> dict[str, Example]:
    """Every question of the embedded world by its text."""
    splits: tuple[Split, ...] = ("train", "dev", "test")
    tasks = [(task, split) for task in SHAPES for split in splits if not (task == "geo-compose" and split == "train")]
    return {example.question: example for task, split in tasks for example in generate_examples(task, split)}


def write_reply(messages: Sequence[Message], seed: int, *, searches: bool = True) -> str:
    """The expert's next reply in ReAct's form; without ``searches`` it answers at once."""
    question_indexes = [index for index, message in enumerate(messages) if _is_question(message)]
    example = _find_example(messages[question_indexes[-1]].content) if question_indexes else None
    if example is None:
        return "Thought: I was not taught this question.\nAction: finish[unknown]"
    later_messages = messages[question_indexes[-1] + 1 :]
    observations = [message.content for message in later_messages if message.role in ("user", "tool")]
    episode = ExpertProgress(example, observations, seed)
    is_told = any(message.role == "system" and "without searching" in message.content for message in messages)
    if is_told or not searches:
        return episode.recall()
    if observations and f"\n{REFLECT}" in observations[-1]:
        return f"{REFLECTION} {episode.reflection()}"
    return episode.step(reflected=bool(observations) and f"\n{REFLECTION}" in observations[-1])


def _is_question(message: Message) -> bool:
    return message.role == "user" and not message.content.startswith((OBSERVATION, "Error:"))


def _find_example(text: str) -> Example | None:
    """The example of a message that is its question, or that has it as its last line."""
    text = text.strip()
    return known_questions().get(text) or known_questions().get(text.rpartition("\n")[2].strip())


class ExpertProgress:
    """The state of an episode: how many facts of the chain its observations hold, and the mistakes drawn for it."""

    def __init__(self, example: Example, observations: Sequence[str], seed: int) -> None:
        self.example, self.meta = example, WorldMeta.from_example(example)
        self.facts = self.meta.facts
        self.facts_found = self.misses = 0
        for observation in observations:
            is_found = self.facts_found < len(self.facts) and observation_holds(
                observation, self.facts[self.facts_found]
            )
            if is_found:
                self.facts_found, self.misses = self.facts_found + 1, 0
            else:
                self.misses += 1
        draw = random.Random(f"{example.question} {seed}")
        fate = draw.random()
        self.bad = STRUGGLE if fate < STRUGGLE_SHARE else int(fate < STRUGGLE_SHARE + BAD_QUERY_SHARE)
        self.bad_hop = draw.randrange(len(self.facts))
        self.bad_order = draw.sample(range(len(VAGUE)), len(VAGUE))
        self.wrong, self.wrong_recall = draw.random() < WRONG_ANSWER_SHARE, draw.random() < WRONG_RECALL_SHARE
        self.wrong_answer = draw.choice(self.meta.wrong)
        self.wording = random.Random(f"{draw.random()} {len(observations)}")  # differs from step to step

    def step(self, *, reflected: bool) -> str:
        """The next thought and action."""
        if self.facts_found == len(self.facts):
            return self._finish("", wrong=self.wrong)
        fact = self.facts[self.facts_found]
        bad = not reflected and self.facts_found == self.bad_hop and self.misses < self.bad
        return f"Thought: {self._thought(fact, reflected)}\nAction: search[{self._query(fact, bad)}]"

    def _thought(self, fact: Fact, reflected: bool) -> str:
        forms = REFLECTED if reflected else AGAIN if self.misses else NEXT if self.facts_found else FIRST
        return self.wording.choice(forms).format(
            known=self._last_finding(), need=describe_need(fact), then=self._describe_plan()
        )

    def _describe_plan(self) -> str:
        """The plan after the next fact, in the question's own terms; every thought states it."""
        later_facts = [_describe_later(fact, before) for before, fact in pairwise(self.facts[self.facts_found :])]
        if self.meta.kind in PAIRED:
            later_facts.append("compare them")
        elif self.meta.kind == "pick":
            later_facts.append("pick its option")
        elif self.meta.kind == "check":
            later_facts.append(f"check whether it is {self.meta.options[0]}")
        return "".join(f", then {plan}" for plan in later_facts)

    def _last_finding(self) -> str:
        """The fact of the last observation, or the outcome of a comparison where the last fact depends on it."""
        if self.meta.kind == "winner's attribute" and self.facts_found == len(self.facts) - 1:
            return f"{state_pair(self.facts[:-1])} {self.facts[-1].country} has more."
        return state_fact(self.facts[self.facts_found - 1]) if self.facts_found else ""

    def _query(self, fact: Fact, bad: bool) -> str:
        if bad:
            forms = VAGUE if fact.finds_country else ASTRAY
            return forms[self.bad_order[self.misses]].format(noun=fact.noun, **asdict(fact))
        choices = list_queries(fact)
        return choices[(self.wording.randrange(len(choices)) if not self.misses else self.misses) % len(choices)]

    def reflection(self) -> str:
        """What went wrong and what to try, in one sentence."""
        if self.facts_found == len(self.facts):
            return "I have found all that I need and should answer now."
        fact = self.facts[self.facts_found]
        if not self.misses:
            return f"The search goes well. {self._last_finding()}".rstrip()
        subject = fact.value if fact.finds_country else fact.country
        return self.wording.choice(FAILED).format(named=subject, noun=fact.noun)

    def recall(self) -> str:
        """Chain of thought: all facts from the table and the answer, in one reply."""
        earlier_facts = self.facts[: -2 if self.meta.kind in PAIRED else -1]
        return self._finish(" ".join(map(state_fact, earlier_facts)), wrong=self.wrong_recall)

    def _finish(self, earlier_facts: str, *, wrong: bool) -> str:
        answer = self.wrong_answer if wrong else self.example.answer
        paired = self.meta.kind in PAIRED
        last = state_pair(self.facts[-2:]) if paired else state_fact(self.facts[-1])
        sentences = (earlier_facts, last, draw_conclusion(self.meta, answer), f"The answer is {answer}.")
        thought = " ".join(sentence for sentence in sentences if sentence)
        return f"Thought: {thought}\nAction: finish[{answer}]"


def observation_holds(observation: str, fact: Fact) -> bool:
    """Whether an observation holds the fact: its country and its value, as whole words."""
    return all(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", observation) for name in (fact.country, fact.value))


def list_queries(fact: Fact) -> list[str]:
    """The good queries for a fact, in every wording that the expert has."""
    forms = FIND_COUNTRY if fact.finds_country else FIND_VALUE
    return [form.format(noun=fact.noun, **asdict(fact)) for form in forms]


def describe_need(fact: Fact) -> str:
    """The value that a fact gives, as a phrase."""
    if fact.finds_country:
        return f"the country with the {fact.noun} {fact.value}"
    return f"the {fact.noun} of {fact.country}"


def state_fact(fact: Fact) -> str:
    """The fact as a sentence."""
    if fact.finds_country:
        return f"{fact.country} has the {fact.noun} {fact.value}."
    return f"The {fact.noun} of {fact.country} is {fact.value}."


def _describe_later(fact: Fact, before: Fact) -> str:
    """A later fact as a phrase, which cannot name the value of the fact before it yet."""
    if fact.finds_country:
        return describe_need(fact)
    if fact.relation == before.relation:
        return f"that of {fact.country}"
    return f"its {fact.noun}"


PAIRED = ("comparison", "described comparison", "same")
"""Kinds whose last thought holds two facts side by side."""


def state_pair(facts: Sequence[Fact]) -> str:
    """Two facts of one relation in one sentence."""
    first, second = facts
    return f"{state_fact(first)[:-1]}, that of {second.country} is {second.value}."


def draw_conclusion(meta: WorldMeta, answer: str) -> str:
    """The sentence that leads to the answer, right or wrong; empty where the answer is the last fact's value."""
    kind = meta.kind
    if kind in ("comparison", "described comparison"):
        return f"{answer} has more."
    if kind == "same":
        return "They are the same." if answer == "yes" else "They are not the same."
    if kind == "check":
        return f"It is {'' if answer == 'yes' else 'not '}{meta.options[0]}."
    return f"That is option {answer}." if kind == "pick" else ""


def write_few_shot(task: str, form: str, search: Callable[..., str], *, count: int = 3) -> list[dict[str, Any]]:
    """Episodes without mistakes on training questions of different shapes, as rows of ``prompts/<task>.<form>.jsonl``.

    ``form`` is "react" or "cot". A held-out task has no training questions and gets those of ``geo-hop``. The questions
    come from the end of the split, because ``collect`` takes questions from its start.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for example in reversed(generate_examples("geo-hop" if task == "geo-compose" else task, "train")):
        episode = ExpertProgress(example, (), seed=0)
        shape = (episode.meta.kind, example.answer if task in ("geo-yesno", "geo-choice") else "")
        flawed = episode.wrong_recall if form == "cot" else episode.wrong or episode.bad
        if not flawed and shape not in rows and len(rows) < count:
            rows[shape] = {"question": example.question, "steps": _write_episode(example, form, search)}
    return list(rows.values())


def _write_episode(example: Example, form: str, search: Callable[..., str]) -> list[dict[str, Any]]:
    renderer, steps = ReActRenderer(), list[Step]()
    while not steps or steps[-1].observation is not None:
        instructions = "Answer without searching." if form == "cot" else ""
        messages = renderer.prompt(example.question, steps, instructions=instructions)
        step = renderer.parse(write_reply(messages, seed=0))
        assert step.action is not None  # every reply of the script has one
        ends = step.action.name == FINISH
        steps.append(step if ends else replace(step, observation=search(**step.action.arguments)))
    return [{key: value for key, value in step.to_dict().items() if key != "text"} for step in steps]
