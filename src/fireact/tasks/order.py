"""The order in which the questions of a split are taken: as the file has them, or as the paper's code shuffles them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fireact.errors import unknown_name_error
from fireact.types import Example

ORDERS = ("file", "paper")
PAPER_SEED = 233


def order_examples(examples: Sequence[Example], order: str) -> Sequence[Example]:
    """The examples in an order of ``ORDERS``. Raises ConfigError for another.

    ``paper`` shuffles the indices of the whole split with the seed of the released code, whose runs are slices of it:
    the first 500 of HotpotQA's dev split are the paper's evaluation questions.
    """
    if order not in ORDERS:
        raise unknown_name_error("order", order, ORDERS)
    if order == "file":
        return examples
    places = list(range(len(examples)))
    random.Random(PAPER_SEED).shuffle(places)
    return [examples[index] for index in places]
