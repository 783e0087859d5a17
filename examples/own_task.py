"""A task of your own: questions, a score, and few-shot examples for a teacher that is prompted.

fireact collect -t examples.own_task:Quiz -n 1 --tool examples.own_tool:capital --teacher openai:gpt-4o
"""

import fireact


class Quiz:
    name = "quiz"
    limits = fireact.Limits(max_steps=3)

    def examples(self, split: str) -> list[fireact.Example]:
        return [fireact.Example("1", "What is the capital of Peru?", "Lima")]

    def score(self, example: fireact.Example, answer: str | None) -> dict[str, float]:
        right = float(answer == example.answer)
        return {"em": right, "f1": right}

    def few_shot(self, method: str) -> list[tuple[str, list[fireact.Step]]]:
        look_up = fireact.Step("I look it up.", fireact.Action("capital", {"country": "Norway"}), "Oslo", "")
        finish = fireact.Step("It is Oslo.", fireact.Action("finish", {"answer": "Oslo"}), None, "")
        return [("What is the capital of Norway?", [look_up, finish])]


if __name__ == "__main__":
    print(Quiz().score(Quiz().examples("test")[0], "Lima"))
