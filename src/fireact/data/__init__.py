"""Data: trajectories are checked, filtered, sampled and mixed, and each set carries its history.

    sources        trajectory files, or other formats converted to them; recipes of mixtures
    filters        which trajectories pass: "correct and steps<=6"
    selection      which of them are selected: ranks, best-of, shares, hold-outs, over light rows
    lines          large files in blocks, by several processes
    dataset        Dataset: the same operations for Python users, in memory
    mixture        the verb ``mix``: the same operations for files of any size
    steps          which steps of a trajectory are bad and should not be learned
    doctor         what a set holds and what is wrong with it; ``findings``, ``duplicates`` and ``contamination`` check
    repair         the verb ``doctor --fix``

Invariant: no trajectory is taken twice, cut or left out without a line of history that says so. A sample depends on the
seed and on the set of trajectories, never on their order in a file.
"""

from fireact.data.dataset import Dataset
from fireact.data.filters import Filter, predicate
from fireact.data.mixture import HELD_OUT, MixConfig, mix, read_mixture
from fireact.data.selection import question_key
from fireact.data.sources import list_mixtures
from fireact.data.steps import weigh_bad_steps

__all__ = [
    "HELD_OUT",
    "Dataset",
    "Filter",
    "MixConfig",
    "list_mixtures",
    "mix",
    "predicate",
    "question_key",
    "read_mixture",
    "weigh_bad_steps",
]
