"""Settings of how a network is trained: loss, optimizer, schedule, epochs, members, search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_serializer, model_validator

from gpumlp.config.model_settings import Dropout, FactorSchedule
from gpumlp.config.section import Choice, NameIn, Problem, Section, Share, Text, Variant, refuse
from gpumlp.data import MIN_SIDE
from gpumlp.metrics import METRICS
from gpumlp.nn import LOSSES
from gpumlp.nn.members import SHARES
from gpumlp.nn.mlp import ALONE, MAX_MEMBERS
from gpumlp.ops import Hyper
from gpumlp.ops.trees import is_power_of_two
from gpumlp.optim import OPTIMIZERS, SCHEDULES


class LossSettings(Choice):
    """The loss that training minimizes."""

    table = LOSSES


class ClassificationLoss(LossSettings):
    """The loss that training minimizes, with class weights."""

    # Above, a batch could weigh more than a 32-bit float can hold, and would have no gradient.
    class_weight: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, le=1e27)]] | None = Field(
        default=None,
        description="class weights: balanced (inverse to class frequencies), or a mapping from class to weight; "
        "null: every class has weight 1",
    )


DEFAULT_LOSSES = {
    "classification": "cross_entropy",
    "regression": "squared_error",
    "multilabel": "binary_cross_entropy",
}
"""The losses that auto stands for, by the task."""


def _rising(levels: tuple[float, ...]) -> tuple[float, ...]:
    if list(levels) != sorted(set(levels)):
        refuse("Loss", [Problem((), f"got {list(levels)}, needs levels that rise", "such as [0.1, 0.5, 0.9]")])
    return levels


Level = Annotated[float, Field(gt=0, lt=1)]


class QuantileLoss(LossSettings):
    """The loss that training minimizes, with the levels of the quantiles."""

    levels: Annotated[tuple[Level, ...], Field(strict=False, min_length=1), AfterValidator(_rising)] = Field(
        default=(0.1, 0.5, 0.9),
        description="quantiles to predict of each target, rising; the one nearest to 0.5 is the prediction",
    )


AVERAGING = 0.999
"""Default decay of the moving average of the parameters."""


class OptimizerSettings(Choice):
    """The optimizer, and what it does to gradients and weights."""

    table = OPTIMIZERS
    learning_rate: float
    weight_decay: float
    decay_schedule: FactorSchedule = Field(
        default="constant", description="schedule that multiplies the weight decay, step by step"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="largest norm of the whole gradient; longer gradients are scaled down to it; null: no clipping",
    )
    averaging: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=AVERAGING,
        description="decay of the moving average of the parameters, validated and kept, per step: over about "
        "1 / (1 - averaging) steps (0.97: 33, 0.999: 1,000); null: no averaging",
    )


class ScheduleSettings(Choice):
    """The learning rate schedule."""

    table = SCHEDULES
    warmup: Share = Field(default=0.0, description="share of all steps over which the learning rate rises from 0")


def loss_variants() -> dict[str, Variant]:
    """Return the settings of each loss, by its name."""
    bases: dict[str, type[LossSettings]] = {"classification": ClassificationLoss}
    return {
        name: Variant(QuantileLoss if spec.one.takes_levels else bases.get(spec.task, LossSettings), spec.hyper)
        for name, spec in LOSSES.items()
    }


class AveragingOptimizerSettings(OptimizerSettings):
    """The optimizer, and what it does to gradients and weights."""

    averaging: None = Field(default=None, description="it averages the weights by itself, always")


def optimizer_variants() -> dict[str, Variant]:
    """Return the settings of each optimizer, by its name."""
    rows = {}
    for name, spec in OPTIMIZERS.items():
        rate = Hyper(spec.learning_rate, "learning rate (step size)", gt=0)
        decay = Hyper(spec.weight_decay, "decoupled weight decay, multiplied by the learning rate in each step", ge=0)
        base = AveragingOptimizerSettings if spec.averages else OptimizerSettings
        rows[name] = Variant(base, {"learning_rate": rate, "weight_decay": decay, **spec.hyper})
    return rows


def schedule_variants() -> dict[str, Variant]:
    """Return the settings of each schedule, by its name."""
    return {name: Variant(ScheduleSettings, spec.hyper) for name, spec in SCHEDULES.items()}


def schedule_of(before: Mapping[str, Any]) -> str | None:
    """Return the schedule that goes with the optimizer."""
    optimizer = before.get("optimizer")
    return OPTIMIZERS[optimizer.name].schedule if isinstance(optimizer, OptimizerSettings) else None


MIN_PATIENCE, PATIENCE_SHARE = 10, 10
"""Default patience: the fewest epochs, and the part of all epochs."""


class EarlyStopping(Section):
    """Early stopping on the validation rows, by the metric that chooses the best epoch."""

    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="epochs without a better metric before training stops; null: a tenth of all epochs, but at least "
        f"{MIN_PATIENCE}",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        description="smallest improvement of the metric that resets patience; the best epoch is kept whatever it is",
    )


MAX_SNAPSHOTS = 32
"""Most epochs of a run that predict together."""


DEFAULT_STEPS, MIN_EPOCHS, MAX_EPOCHS = 20_000, 30, 1_000
"""Default length of a run in steps, and the fewest and most epochs that it comes to."""


MAX_SHIFT = 8
"""Most pixels that images are moved by: each is 33 rows then."""


MAX_SHARDS = 1024
"""Most shards of a batch."""


def _power_of_two(count: int) -> int:
    if not is_power_of_two(count):
        above = 1 << count.bit_length()
        hint = " or ".join(str(each) for each in (above // 2, above) if each <= MAX_SHARDS)
        refuse("Training", [Problem((), f"got {count}, needs a power of two", f"such as {hint}")])
    return count


class EpochsBySteps(Section):
    """Epochs that come to a number of steps, within bounds: fewer on more rows."""

    steps: int = Field(ge=1, description="steps that the run should come to")
    least: int = Field(default=MIN_EPOCHS, ge=1, description="fewest epochs")
    most: int = Field(default=MAX_EPOCHS, ge=1, description="most epochs")

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if self.least > self.most:
            message = f"the fewest epochs are {self.least}, the most {self.most}"
            refuse("Epochs", [Problem(("least",), message, "set least to at most the other")])
        return self


class Training(Section):
    """Epochs, batches, seed, early stopping and checkpoints."""

    epochs: Annotated[int, Field(ge=1)] | EpochsBySteps | None = Field(
        default=None,
        description="passes over the training rows, or {steps: 5000, least: 64, most: 256}: as many as come to this "
        f"number of steps; null: about {DEFAULT_STEPS:,} steps, but {MIN_EPOCHS} to {MAX_EPOCHS:,} epochs",
    )
    batch_size: int = Field(default=64, ge=1, description="rows per step")
    shards: Annotated[int, AfterValidator(_power_of_two), Field(ge=1, le=MAX_SHARDS)] | None = Field(
        default=None,
        description="fixed parts of each batch, a power of two: gradients are summed over them in a fixed order, and "
        "batch norm is of each; ranks share them, and their number changes no bit; null: one for each rank",
    )
    drop_last: bool = Field(
        default=False, description="leave out the last batch of an epoch where it has fewer rows than the others"
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="mix each row of a batch with another one, inputs and loss alike, by a share that each batch "
        "draws from the distribution Beta(mixup, mixup); 0: none",
    )
    shift: Annotated[int, Field(ge=0, le=MAX_SHIFT)] | Literal["auto"] = Field(
        default=0,
        description="square images of bytes (IDX, NumPy): train on each also moved down, up, right and left by 1 to "
        "this number of pixels, 0: as it is only; a number takes rows of s * s bytes as s x s images; auto: 1 for "
        f"arrays (N, s, s) of bytes with s of at least {MIN_SIDE}, where they fit into memory five times more, 0 for "
        "other rows",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="random seed of the split, initial weights, row order and dropout"
    )
    metric: Annotated[str, NameIn(METRICS, ("auto",))] = Field(
        default="auto",
        description="metric of the validation rows that chooses the best epoch; of equal ones the later is kept for "
        "accuracy, macro_f1 and auc; log_loss is measured after a temperature fitted to these rows; auto: loss",
    )
    snapshots: int = Field(
        default=1,
        ge=1,
        le=MAX_SNAPSHOTS,
        description="most epochs of the run whose networks predict together, by their mean: those whose mean is best "
        "on the validation rows, at no more training, but as many times as long to predict; 1: the best epoch alone",
    )
    calibration: Literal["auto", "none", "temperature", "isotonic"] = Field(
        default="auto",
        description="calibration of the probabilities, fitted on the validation rows: temperature (a factor of the "
        "last linear values, and a share 1 / (2 rows + 2) of equal probabilities, by which labels are smoothed), "
        "isotonic (a rising curve of each "
        "class behind it, for at least 10,000 validation rows; the class that is predicted stays) or none; auto: "
        "temperature where there are validation rows",
    )
    conformal: Share = Field(
        default=0.0,
        description="share of the validation rows that does not choose the best epoch, for gpumlp predict "
        "--interval; 0: no intervals",
    )
    early_stopping: EarlyStopping | Literal["auto"] | None = Field(
        default="auto",
        description="stop when the metric stops improving; auto: if there are validation rows; null: run all epochs",
    )
    checkpoint_every: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="steps between checkpoints, also within an epoch; null: at the ends of epochs, "
        "at most every two seconds",
    )

    @property
    def chosen_metric(self) -> str:
        """The key of ``METRICS`` that is meant."""
        return "loss" if self.metric == "auto" else self.metric

    def calibrates(self, validated: bool) -> str:
        """Return the calibration that is meant, or ``none``, given whether there are validation rows."""
        if self.calibration == "auto":
            return "temperature" if validated else "none"
        return self.calibration

    def stopping(self, epochs: int, *, validated: bool) -> tuple[int, float] | None:
        """Return patience and least improvement, or None where all epochs are run.

        Parameters
        ----------
        epochs
            Epochs of the whole run.
        validated
            Whether there are validation rows.
        """
        setting = self.early_stopping
        if setting is None or not validated:
            return None
        rule = EarlyStopping() if setting == "auto" else setting
        return rule.patience or max(MIN_PATIENCE, math.ceil(epochs / PATIENCE_SHARE)), rule.min_delta

    def epochs_over(self, rows: int) -> int:
        """Return the number of epochs for this many training rows."""
        if isinstance(self.epochs, int):
            return self.epochs
        plan = self.epochs or EpochsBySteps(steps=DEFAULT_STEPS)
        size = min(self.batch_size, rows)
        batches = rows // size if self.drop_last else math.ceil(rows / size)
        return max(plan.least, min(math.ceil(plan.steps / batches), plan.most))


BEST = {"own": "each network's own", "joint": "the one at which their mean is best"}
"""Which epoch's weights are kept of each member."""


MEMBERS_ON_GPU, MEMBERS_ON_CPU = 32, 16
"""How many networks share layers where the machine decides."""


class Members(Section):
    """Networks trained side by side on the same rows, which predict by their mean."""

    count: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] | Literal["auto"] = Field(
        default=1,
        description=f"number of networks; auto, where they share layers: {MEMBERS_ON_GPU} on a GPU, {MEMBERS_ON_CPU} "
        "on a CPU",
    )
    share: Annotated[str, NameIn(SHARES)] = Field(
        default=ALONE,
        description="what they have in common: " + "; ".join(f"{name} ({sense})" for name, sense in SHARES.items()),
    )
    best: Annotated[str, NameIn(BEST)] = Field(
        default="own",
        description="epoch whose weights are kept: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in BEST.items()),
    )
    learning_rate: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)] | None = Field(
        default=None, description="learning rate of each network, a list; null: optimizer.learning_rate"
    )
    weight_decay: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False)] | None = Field(
        default=None, description="weight decay of each network, a list; null: optimizer.weight_decay"
    )
    dropout: Annotated[tuple[Dropout, ...], Field(strict=False)] | None = Field(
        default=None, description="dropout rate of all hidden layers of each network, a list; null: those of model"
    )

    @property
    def number(self) -> int:
        """Number of networks, that on a CPU where the machine decides."""
        return MEMBERS_ON_CPU if self.count == "auto" else self.count

    @property
    def apart(self) -> int:
        """Number of networks that share nothing."""
        return self.number if self.share == ALONE else 1

    def on(self, *, gpu: bool) -> Self:
        """Return these, as many as there are to be on a GPU or a CPU where the machine decides."""
        decided = MEMBERS_ON_GPU if gpu else MEMBERS_ON_CPU
        return self.model_copy(update={"count": decided}) if self.count == "auto" else self

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        problems = []
        if self.share != ALONE and self.count == 1:
            message = "one network has nothing to share"
            problems.append(Problem(("count",), message, "set members.count, or share: none"))
        if self.share == ALONE and self.count == "auto":
            message = "the machine decides how many networks share layers, and these share none"
            problems.append(Problem(("count",), message, "set members.count, or share: hidden or weights"))
        if self.share != ALONE and self.best == "own" and "best" in self.model_fields_set:
            message = "networks that share layers have one best epoch"
            problems.append(Problem(("best",), message, "set best: joint, or share: none"))
        for name in ("learning_rate", "weight_decay", "dropout"):
            values_of_members = getattr(self, name)
            if values_of_members is not None and self.share != ALONE:
                message = f"networks that share layers have one {name.replace('_', ' ')}"
                problems.append(Problem((name,), message, "remove it, or set share: none"))
            elif values_of_members is not None and self.count != "auto" and len(values_of_members) != self.count:
                values, networks = "value" + "s" * (len(values_of_members) != 1), "network" + "s" * (self.count != 1)
                message = f"{len(values_of_members)} {values} for {self.count} {networks}"
                problems.append(Problem((name,), message, "give one value for each, or set members.count"))
        refuse("Members", problems)
        return self

    @model_serializer
    def _short(self) -> int | str | dict[str, Any]:
        default = Members()
        fields = {key: value for key, value in self if value != getattr(default, key)}
        return self.count if fields.keys() <= {"count"} else {"count": self.count, **fields}


SAMPLERS = {
    "keyed": "the grid in order, or random draws, each point a function of the seed and its number",
    "tpe": "each point by the results of those before (Optuna's tree-structured Parzen estimator; extra sweep)",
}
"""How gpumlp sweep chooses points."""


class SearchSettings(Section):
    """How gpumlp sweep chooses the points it tries. No other command uses it."""

    sampler: Annotated[str, NameIn(SAMPLERS)] = Field(
        default="keyed", description="; ".join(f"{name} ({meaning})" for name, meaning in SAMPLERS.items())
    )
    storage: Text | None = Field(
        default=None,
        description="with tpe: address of the database of the study, such as postgresql://user@host/base or "
        "sqlite:///study.db; null: a file in the folder of the sweep",
    )
    pruning: Literal["median", "none"] = Field(
        default="median",
        description="with tpe: median ends a point whose validation metric is worse than the median of the others at "
        "the same epoch",
    )

    @model_validator(mode="after")
    def _storage_has_a_study(self) -> Self:
        if self.storage is not None and self.sampler != "tpe":
            message = f"sampler {self.sampler} has no study to keep"
            refuse("Search", [Problem(("storage",), message, "set sampler: tpe, or remove storage")])
        return self
