"""The bound that hardware sets: rows a second of a student's products alone, in the very same shapes.

Run: python bench/bound.py [--student NAME] [--rows 1 16 512] [--small] [--json]. A form is a type of the numbers and a
layout of the weights. All forms take turns, so a machine that others use slows all alike, and figures are medians.
``generate.py`` and ``train.py`` measure their ``to_bound`` with this file: the share of the bound that they reach in
the same run, in wall time and in processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fireact.models.packed import multiply_packed, pack_weight
from fireact.training.frozen_blocks import find_blocks
from fireact.training.student import load_model_shape

Shape = tuple[int, int]
"""Outputs and inputs of a linear layer."""


@dataclass(frozen=True)
class Form:
    """A type of the numbers, and whether the weights lie in oneDNN's own layout."""

    dtype: torch.dtype
    packed: bool

    @property
    def name(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{', packed' if self.packed else ''}"


FORMS = tuple(Form(dtype, packed) for dtype in (torch.float32, torch.bfloat16) for packed in (False, True))


@dataclass(frozen=True)
class Seconds:
    """Medians of wall and processor seconds of one piece of work."""

    wall: float
    processor: float

    @classmethod
    def of(cls, laps: Sequence[tuple[float, float]]) -> Seconds:
        return cls(*(statistics.median(column) for column in zip(*laps, strict=True)))

    def share_of(self, longer: Seconds) -> dict[str, float]:
        """These seconds as a share of longer ones: ``to_bound`` where these are the bound."""
        return {
            "wall": round(self.wall / longer.wall, 3),
            "processor": round(self.processor / longer.processor, 3),
        }


def linear_shapes(student: str, *, head: bool = True, blocks: int | None = None) -> list[Shape]:
    """The shapes of a student's linear layers in order: of its uppermost ``blocks`` (None: all), and of its head."""
    model = load_model_shape(student)
    layers = list(find_blocks(model)[2])
    chosen = layers if blocks is None else layers[len(layers) - blocks :]
    linears = [part for layer in chosen for part in layer.modules() if isinstance(part, nn.Linear)]
    heads = [model.get_output_embeddings()] if head else []
    return [(linear.weight.shape[0], linear.weight.shape[1]) for linear in [*linears, *heads]]


class Products:
    """Weights of given shapes in one form; a call multiplies rows with each of them once."""

    def __init__(self, shapes: Sequence[Shape], form: Form) -> None:
        self.shapes, self.form = shapes, form
        plain = ((torch.randn(shape) * 0.02).to(form.dtype) for shape in shapes)
        self.weights = [pack_weight(weight) if form.packed else weight for weight in plain]
        self.multiply: Callable[[Tensor, Tensor], Tensor] = multiply_packed if form.packed else nn.functional.linear

    @torch.inference_mode()
    def lap(self, rows: int) -> tuple[float, float]:
        """Wall and processor seconds of all products of this many rows."""
        inputs = {width: torch.randn(rows, width).to(self.form.dtype) for _, width in self.shapes}
        wall, processor = time.perf_counter(), time.process_time()
        for weight, (_, width) in zip(self.weights, self.shapes, strict=True):
            self.multiply(inputs[width], weight)
        return time.perf_counter() - wall, time.process_time() - processor


def measure(student: str, rows: Sequence[int], *, laps: int) -> list[dict[str, Any]]:
    """A row of the table for each number of rows: rows a second of each form, in wall and processor time."""
    shapes = linear_shapes(student)
    products = [Products(shapes, form) for form in FORMS]
    table = []
    for count in rows:
        for each in products:
            each.lap(count)  # the first one loads kernels
        rounds = [[each.lap(count) for each in products] for _ in range(laps)]
        seconds = {form.name: Seconds.of(column) for form, column in zip(FORMS, zip(*rounds, strict=True), strict=True)}
        table.append({
            "rows": count,
            "rows_per_second": {name: round(count / each.wall, 1) for name, each in seconds.items()},
            "rows_per_processor_second": {name: round(count / each.processor, 1) for name, each in seconds.items()},
        })  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", default="smollm2-135m")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 512])
    parser.add_argument("--laps", type=int, default=15)
    parser.add_argument("--small", action="store_true", help="5 laps: less than a minute")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = measure(options.student, options.rows, laps=5 if options.small else options.laps)
    if options.json:
        print(json.dumps({"threads_of_torch": torch.get_num_threads(), "products": table}))
        return
    print(f"{'rows':>6}" + "".join(f"{form.name:>20}" for form in FORMS) + "   rows a second (a processor second)")
    for row in table:
        pairs = zip(row["rows_per_second"].values(), row["rows_per_processor_second"].values(), strict=True)
        print(f"{row['rows']:>6}" + "".join(f"{f'{wall:.0f} ({processor:.0f})':>20}" for wall, processor in pairs))


if __name__ == "__main__":
    main()
