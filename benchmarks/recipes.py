"""Runs that use what the shipped configurations do not: one of them with some settings changed, by a name.

Embeddings of numbers, tables and products by codes, members that share layers or weights, several networks at once,
layers whose activation is mixed with the identity, mixup, and every way of averaging weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class Recipe:
    """A shipped configuration with changes, as of ``--set``."""

    config: str
    changes: tuple[str, ...] = ()

    def load(self, *more: str) -> Any:
        """Return the settings, with more changes."""
        from gpumlp import config  # which takes packages that a part may do without

        return config.load(CONFIGS / f"{self.config}.yaml", [*self.changes, *more])


RECIPES = {
    "tabular, mixup": Recipe(
        "bikeshare", ("preset=tabular", "model.activation=mish", "training.mixup=0.2", "training.batch_size=256")
    ),
    "tabular, classes": Recipe("breast_cancer", ("preset=tabular", "model.activation=selu")),
    "strong, 32 members": Recipe("breast_cancer", ("preset=strong", "members.count=32")),
    "strong, categories": Recipe("bikeshare", ("preset=strong", "members.count=4", "training.batch_size=256")),
    "members share weights": Recipe("diabetes", ("members={count: 4, share: weights}",)),
    "bf16, members": Recipe("breast_cancer", ("precision=bf16", "members={count: 8, share: hidden}")),
    "categories read by code": Recipe("bikeshare", ("data.columns={day: {type: category}}",)),
    "schedule-free": Recipe("digits", ("optimizer=schedule_free", "schedule=constant")),
    "networks at once": Recipe("iris", ("members=5",)),
    "tabular, networks at once": Recipe("diabetes", ("preset=tabular", "members=5")),
}
