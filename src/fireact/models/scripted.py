"""``scripted:expert``: a script that plays the teacher in the embedded world; it is no language model.

It knows the chain of facts of each question, but takes every value that it uses from what the search tool showed it: it
searches, reads, searches again in other words where a value is missing, and finishes. It makes mistakes on purpose, so
that filtering by reward has work to do; which ones, is drawn from the question and the seed. It keeps no state: a reply
depends on the messages and the seed alone. Its usage counts words, not tokens.

    a hop begins with a bad query and recovers     BAD_QUERY_SHARE of episodes
    two bad queries in a row, so that a method which reflects has reason to       STRUGGLE_SHARE
    a wrong answer at the end                      WRONG_ANSWER_SHARE, and WRONG_RECALL_SHARE without searching
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fireact.errors import unknown
from fireact.render.react import OBSERVATION, REFLECT, REFLECTION
from fireact.types import Completion, Example, Message, Usage
from fireact.world.facts import Split
from fireact.world.questions import SHAPES, examples

BAD_QUERY_SHARE = 0.15
STRUGGLE_SHARE = 0.1
WRONG_ANSWER_SHARE = 0.12
WRONG_RECALL_SHARE = 0.3

Fact = Mapping[str, str]

NOUN = {
    "capital": "capital", "currency": "currency", "language": "main language", "domain": "internet domain",
    "code": "calling code", "people": "population", "size": "area", "largest neighbour": "largest neighbour",
}  # fmt: skip
UNIT = {"people": "{} people", "size": "{} square kilometres"}
NEED = ("I need to find {}.", "First I look for {}.", "I have to find {}.")
NEXT = ("{} Now I need {}.", "{} Next I look for {}.", "{} I still need {}.")
AGAIN = ("That does not say {}. I search again in other words.", "This is not {}. I try another query.")


@dataclass(frozen=True, slots=True)
class Expert:
    """The scripted teacher (see the module's docstring for what it does and gets wrong)."""

    name: str = "scripted:expert"

    def complete(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Completion:
        text = reply(messages, seed)
        read = sum(len(message.content.split()) for message in messages)
        usage = Usage(calls=1, prompt_tokens=read, completion_tokens=len(text.split()))
        return Completion(text=text, usage=usage, finish="stop", seconds=0.0)


def from_name(name: str, *, slots: int = 16) -> Expert:
    """The LM behind ``scripted:NAME``. Raises ConfigError when there is none of that name."""
    if name != "expert":
        raise unknown("scripted teacher", f"scripted:{name}", ["scripted:expert"])
    return Expert()


@cache
def known_questions() -> dict[str, Example]:
    """Every question of the embedded world by its text."""
    splits: tuple[Split, ...] = ("train", "dev", "test")
    tasks = [(task, split) for task in SHAPES for split in splits if not (task == "geo-compose" and split == "train")]
    return {example.question: example for task, split in tasks for example in examples(task, split)}


def reply(messages: Sequence[Message], seed: int) -> str:
    """What the expert writes next."""
    at = max(i for i, message in enumerate(messages) if message.role == "user" and not message.content.startswith(OBSERVATION))
    example = known_questions().get(messages[at].content)
    if example is None:
        return "Thought: I was not taught this question.\nAction: finish[unknown]"
    observations = [message.content for message in messages[at + 1 :] if message.role == "user"]
    episode = Progress(example, observations, random.Random(f"{example.question} {seed}"))
    if any(message.role == "system" and "without searching" in message.content for message in messages):
        return episode.recall()
    if observations and f"\n{REFLECT}" in observations[-1]:
        return episode.reflect()
    return episode.step(reflected=bool(observations) and f"\n{REFLECTION}" in observations[-1])


class Progress:
    """How far an episode has come: which facts of the chain its observations hold, and what the script draws for it."""

    def __init__(self, example: Example, observations: Sequence[str], draw: random.Random) -> None:
        self.facts: list[Fact] = example.meta["facts"]
        self.example = example
        self.found = self.misses = 0
        for observation in observations:
            if self.found < len(self.facts) and shows(observation, self.facts[self.found]):
                self.found, self.misses = self.found + 1, 0
            else:
                self.misses += 1
        fate = draw.random()
        self.bad = 2 if fate < STRUGGLE_SHARE else 1 if fate < STRUGGLE_SHARE + BAD_QUERY_SHARE else 0
        self.bad_hop = draw.randrange(len(self.facts))
        self.wrong, self.wrong_recall = draw.random() < WRONG_ANSWER_SHARE, draw.random() < WRONG_RECALL_SHARE
        self.wrong_answer = draw.choice(example.meta["wrong"])
        self.draw = random.Random(f"{draw.random()} {len(observations)}")  # wording differs from round to round

    def step(self, *, reflected: bool) -> str:
        if self.found == len(self.facts):
            return self._finish(self.wrong)
        fact = self.facts[self.found]
        bad = not reflected and self.found == self.bad_hop and self.misses < self.bad
        return f"Thought: {self._thought(fact)}\nAction: search[{self._bad_query(fact) if bad else self._query(fact)}]"

    def _thought(self, fact: Fact) -> str:
        if self.misses:
            return self.draw.choice(AGAIN).format(need(fact))
        if self.found == 0:
            return self.draw.choice(NEED).format(need(fact))
        return self.draw.choice(NEXT).format(statement(self.facts[self.found - 1]), need(fact))

    def _query(self, fact: Fact) -> str:
        noun, country, value = NOUN[fact["relation"]], fact["country"], fact["value"]
        if fact["find"] == "country":
            return self.draw.choice((f"country with {noun} {value}", f"{noun} {value}"))
        return self.draw.choice((f"{country} {noun}", f"{noun} of {country}"))

    def _bad_query(self, fact: Fact) -> str:
        return f"list of countries by {NOUN[fact['relation']]}" if self.misses == 0 else f"what is a {NOUN[fact['relation']]}"

    def reflect(self) -> str:
        if self.found == len(self.facts):
            return f"{REFLECTION} I have all that I need and should answer."
        fact = self.facts[self.found]
        return f"{REFLECTION} My queries were too vague. I should name {fact['value' if fact['find'] == 'country' else 'country']}."

    def recall(self) -> str:
        statements = " ".join(statement(fact) for fact in self.facts)
        return f"Thought: {statements} {conclusion(self.example)}".rstrip() + self._answer(self.wrong_recall)

    def _finish(self, wrong: bool) -> str:
        relations = {fact["relation"] for fact in self.facts[-2:]}
        last = self.facts[-2:] if len(relations) == 1 and len(self.facts) > 1 else self.facts[-1:]
        thought = f"{' '.join(statement(fact) for fact in last)} {conclusion(self.example)}"
        return f"Thought: {thought.rstrip()}{self._answer(wrong)}"

    def _answer(self, wrong: bool) -> str:
        return f"\nAction: finish[{self.wrong_answer if wrong else self.example.answer}]"


def shows(observation: str, fact: Fact) -> bool:
    """Whether an observation holds the fact: its country and its value, as whole words."""
    return all(re.search(rf"(?<![\w-]){re.escape(fact[key])}(?![\w-])", observation) for key in ("country", "value"))


def need(fact: Fact) -> str:
    """What is looked for, as a phrase."""
    if fact["find"] == "country":
        return f"the country with the {NOUN[fact['relation']]} {fact['value']}"
    return f"the {NOUN[fact['relation']]} of {fact['country']}"


def statement(fact: Fact) -> str:
    """The fact as a sentence."""
    value = UNIT.get(fact["relation"], "{}").format(fact["value"])
    if fact["find"] == "country":
        return f"The country with the {NOUN[fact['relation']]} {value} is {fact['country']}."
    return f"The {NOUN[fact['relation']]} of {fact['country']} is {value}."


def conclusion(example: Example) -> str:
    """What follows from the facts, where the answer is none of their values."""
    kind, answer, facts = example.meta["kind"], example.answer, example.meta["facts"]
    conclusions: dict[str, Any] = {
        "comparison": f"{answer} has more.",
        "described comparison": f"{answer} has more.",
        "check": "That is what was asked." if answer == "yes" else "That is not what was asked.",
        "same": "They are the same." if answer == "yes" else "They are not the same.",
        "pick": f"That is option {answer}.",
    }
    return str(conclusions.get(kind, "")) if facts else ""
