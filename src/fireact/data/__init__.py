"""Data: trajectories that are checked, filtered, sampled and mixed, each set carrying how it came to be.

    sources        our own lines, or other formats turned into them; recipes of mixtures
    filters        which trajectories are wanted: "correct and steps<=6"
    selection      which of them are taken: ranks, best-of, shares, hold-outs, over light rows
    lines          large files in blocks, by several processes
    dataset        Dataset: all of it for Python users, in memory
    mixture        the verb ``mix``: all of it for files of any size
    steps          which steps of a trajectory are bad, so that they are not learned
    doctor         what is in a set and what is wrong with it; ``findings``, ``duplicates`` and ``contamination`` look
    repair         the verb ``doctor --fix``

Invariant: nothing is taken twice, cut or left out without a line of history that says so; what is sampled depends on
the seed and on the set of trajectories, never on their order in a file.
"""

from fireact.data.dataset import Dataset
from fireact.data.filters import Filter, predicate
from fireact.data.mixture import HELD_OUT, MixConfig, mix, read_mixture
from fireact.data.selection import question
from fireact.data.sources import shipped
from fireact.data.steps import weighed

__all__ = [
    "HELD_OUT",
    "Dataset",
    "Filter",
    "MixConfig",
    "mix",
    "predicate",
    "question",
    "read_mixture",
    "shipped",
    "weighed",
]
