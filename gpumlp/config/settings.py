"""All settings of a run, in the order of the file: what each means, its range and its default."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from gpumlp.backend import BACKENDS
from gpumlp.config.data_settings import Data
from gpumlp.config.model_settings import Model
from gpumlp.config.presets import PLAIN, PRESETS, over_preset
from gpumlp.config.section import NameIn, OneOf, Problem, Section, refuse, section_of_count
from gpumlp.config.training_settings import (
    DEFAULT_LOSSES,
    EarlyStopping,
    LossSettings,
    Members,
    OptimizerSettings,
    QuantileLoss,
    ScheduleSettings,
    SearchSettings,
    Training,
    loss_variants,
    optimizer_variants,
    schedule_of,
    schedule_variants,
)
from gpumlp.config.yaml_text import KeyPath
from gpumlp.data import FLOAT32_MAX, FLOAT32_TINY, Goal
from gpumlp.data.roles import Task
from gpumlp.metrics import METRICS
from gpumlp.nn import LOSSES, NORMS
from gpumlp.nn.members import MEANS
from gpumlp.nn.mlp import ALONE
from gpumlp.ops import ACTIVATIONS
from gpumlp.ops.losses import Loss as LossRecord
from gpumlp.ops.precision import PRECISIONS
from gpumlp.optim import SCHEDULES
from gpumlp.seeds import member_seed

VERSION = 1
"""Of the settings: one more when what a file says would no longer mean the same."""

WITHOUT_PRESET = "without preset"
"""The context to validate saved settings in, which are complete: what a preset has gained since is not theirs."""


MAX_FOLDS = 100
"""Most folds of a bag."""


def _all_defaults() -> Any:
    """Return a section with nothing set, for validation to fill in."""
    return {}


class Settings(Section):
    """All settings of a run."""

    task: Task = Field(
        description="classification (two or more classes), regression (numbers) or multilabel (several labels of two "
        "values each)"
    )
    preset: Annotated[str, NameIn(PRESETS)] = Field(
        default=PLAIN,
        description="defaults to start from, which the settings of the file override: "
        + "; ".join(f"{name} ({each.meaning})" for name, each in PRESETS.items()),
    )
    data: Data = Field(description="the data: at least train (a file) and target (a column)")
    model: Model = Field(default=Model(), description="the network")
    loss: Annotated[LossSettings, OneOf(loss_variants, DEFAULT_LOSSES)] = Field(
        default_factory=_all_defaults, description="loss to minimize; auto: the default of the task"
    )
    optimizer: Annotated[OptimizerSettings, OneOf(optimizer_variants, "adamw")] = Field(
        default_factory=_all_defaults, description="optimizer"
    )
    schedule: Annotated[ScheduleSettings, OneOf(schedule_variants, "cosine", schedule_of)] = Field(
        default_factory=_all_defaults, description="learning rate schedule; with schedule_free constant"
    )
    training: Training = Field(default=Training(), description="epochs, batches, seed and early stopping")
    members: Annotated[
        Members, BeforeValidator(section_of_count, json_schema_input_type=int | Literal["auto"] | Members)
    ] = Field(
        default=Members(), description="networks trained side by side, which predict by their mean: a number of them"
    )
    bag: int = Field(
        default=1,
        ge=1,
        le=MAX_FOLDS,
        description="folds of the rows that are not test rows: gpumlp train trains a network on the rows outside of "
        "each, chosen on its fold, and they predict by their mean; 1: one network",
    )
    time_limit: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="seconds of training, over all folds of a bag: it ends before an epoch that would last longer, "
        "with the best weights so far; null: no limit",
    )
    search: SearchSettings = Field(default=SearchSettings(), description="how gpumlp sweep chooses points")
    backend: Annotated[str, NameIn(BACKENDS, ("auto",))] = Field(
        default="auto", description="compute backend; auto: the fastest available"
    )
    device: int = Field(default=0, ge=0, description="GPU index, on machines with several")
    precision: Annotated[str, NameIn(PRECISIONS)] = Field(
        default="float32",
        description="number format: "
        + "; ".join(f"{name} ({precision.meaning})" for name, precision in PRECISIONS.items()),
    )
    version: int = Field(
        default=VERSION, ge=1, le=VERSION, description="version of the settings format; later versions are refused"
    )

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, settings: object, info: ValidationInfo) -> object:
        return settings if info.context == WITHOUT_PRESET else over_preset(settings)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = []
        if LOSSES[self.loss.name].task != self.task:
            fitting = [name for name, spec in LOSSES.items() if spec.task == self.task]
            message = f"{self.loss.name} is not a loss for {self.task}"
            problems.append(Problem(("loss", "name"), message, "allowed: auto, " + ", ".join(fitting)))
        metric = self.training.metric
        if metric in METRICS and not METRICS[metric].fits(self.task):
            fitting = [name for name, each in METRICS.items() if each.fits(self.task)]
            message = f"{metric} is not a metric for {self.task}"
            problems.append(Problem(("training", "metric"), message, "allowed: auto, " + ", ".join(fitting)))
        fitted = {"temperature": "a temperature", "isotonic": "an isotonic curve"}.get(self.training.calibration)
        if fitted is not None and self.task != "classification":
            message = f"{fitted} is of probabilities, and a regression has none"
            if self.task == "multilabel":
                message = f"{fitted} is of classes, and labels have none"
            problems.append(Problem(("training", "calibration"), message, "set calibration: auto"))
        if self.model.clamp and (self.task != "regression" or LOSSES[self.loss.name].one.of_counts):
            counts = f"with the loss {self.loss.name} the network predicts logarithms, which are not clamped"
            message = "classes have no range to keep predictions in" if self.task != "regression" else counts
            problems.append(Problem(("model", "clamp"), message, "set clamp: false"))
        problems += self._about_target()
        if self.data.split.validation == 0:
            rows = "validation rows, but data.split.validation is 0"
            message = f"needs {rows}"
            hint = "set data.split.validation to a share or a file, or "
            if isinstance(self.training.early_stopping, EarlyStopping):
                path = ("training", "early_stopping")
                problems.append(Problem(path, f"early stopping {message}", f"{hint}set early_stopping: null"))
            if metric != "auto":
                path = ("training", "metric")
                problems.append(Problem(path, f"choosing the epoch by {metric} {message}", f"{hint}set metric: auto"))
            if fitted is not None:
                path = ("training", "calibration")
                problems.append(Problem(path, f"{fitted} {message}", f"{hint}set calibration: none"))
            if self.training.snapshots > 1 and self.preset == PLAIN:  # another preset's is then of no use
                path = ("training", "snapshots")
                problems.append(Problem(path, f"choosing several epochs {message}", f"{hint}set snapshots: 1"))
            if self.training.conformal:
                path = ("training", "conformal")
                problems.append(Problem(path, f"intervals need {rows}", f"{hint}set conformal: 0"))
            if SCHEDULES[self.schedule.name].watches:
                path = ("schedule", "name")
                problems.append(Problem(path, f"{self.schedule.name} {message}", f"{hint}choose another schedule"))
        shards = self.training.shards or 1
        if self.training.batch_size <= shards and any(
            NORMS[block.norm].mixes_rows for block in self.model.blocks if block.norm in NORMS
        ):
            message = "batch norm needs batches of at least 2 rows" + " for each shard" * (shards > 1)
            problems.append(Problem(("training", "batch_size"), message, "use a larger batch_size, or norm: layer"))
        if self.members.share != ALONE and not self.model.hidden:
            message = "without hidden layers there is nothing to share"
            problems.append(Problem(("members", "share"), message, "set model.hidden, or share: none"))
        widths = [block.units for block in self.model.hidden]
        if self.model.residual and not any(a == b for a, b in itertools.pairwise(widths)):
            message = "no hidden layer is as wide as the one before, so there is nothing to add"
            problems.append(Problem(("model", "residual"), message, "set residual: false, or equal widths"))
        if self.members.apart > 1 and shards > 1:
            message = "several networks of their own are not trained in shards"
            hint = "set shards: 1, members: 1, or members.share to hidden or weights"
            problems.append(Problem(("training", "shards"), message, hint))
        if self.model.trained_activation:
            for number, block in enumerate(self.model.blocks):
                if block.activation is not None and ACTIVATIONS[block.activation].of_rows:
                    has_activation = self.model.hidden[number].activation is not None
                    path = ("model", *(("hidden", number) if has_activation else ()), "activation")
                    message = f"{block.activation} works along rows and is not mixed with the identity"
                    problems.append(Problem(path, message, "set trained_activation: false, or another activation"))
        if max(self.members.number, self.training.snapshots) > 1 and LOSSES[self.loss.name].many.link not in MEANS:
            message = f"predictions of a network trained with {self.loss.name} have no mean"
            problems.append(Problem(("loss", "name"), message, "set members and snapshots to 1, or another loss"))
        if self.members.apart > 1 and self.training.snapshots > 1:
            message = "several epochs are kept of one network, and there are several"
            hint = "set snapshots: 1, members: 1, or members.share to hidden or weights"
            problems.append(Problem(("training", "snapshots"), message, hint))
        if self.precision != "float64":
            problems += _beyond_float32(self.model_dump(mode="json"))
        problems += self._about_bag()
        refuse("Settings", problems)
        return self

    def _about_bag(self) -> Iterator[Problem]:
        """Yield what does not fit folds that are trained side by side."""
        if self.bag == 1:
            if PRESETS[self.preset].combines:
                message = f"preset {self.preset} weights its recipes on rows outside of folds"
                yield Problem(("bag",), message, "set bag to 2 or more, or choose another preset")
            return
        if not isinstance(self.data.split.validation, float):
            message = f"with bag: {self.bag} the folds are the validation rows"
            yield Problem(("data", "split", "validation"), message, "remove it, or set bag: 1")
        if self.data.split.time is not None:
            message = "the first rows in time would be in no fold"
            yield Problem(("bag",), message, "set bag: 1, or remove data.split.time")
        if self.training.conformal:
            message = "folds that predict by their mean have no intervals"
            yield Problem(("training", "conformal"), message, "set conformal: 0, or bag: 1")

    def _about_target(self) -> Iterator[Problem]:
        """Yield what does not fit the target."""
        transform = self.data.target_transform
        if self.task == "multilabel" and not isinstance(self.data.target, tuple):
            hint = f"write [{self.data.target}], or set the task to classification"
            yield Problem(("data", "target"), "multilabel has a list of labels", hint)
        if self.task == "multilabel" and self.training.conformal:
            message = "intervals are of one target, not of labels"
            yield Problem(("training", "conformal"), message, "set conformal: 0")
        if self.task != "regression":
            if self.task == "classification" and isinstance(self.data.target, tuple) and len(self.data.target) > 1:
                hint = "name one column, or set the task to multilabel (labels of two values each)"
                yield Problem(("data", "target"), "classification has one target", hint)
            if transform != "none":
                hint = "set it to none, or the task to regression"
                yield Problem(("data", "target_transform"), "classes have no transform", hint)
        elif transform != "none" and (self._record.of_counts or self._record.relative):
            message = f"the loss {self.loss.name} predicts the target itself"
            yield Problem(("data", "target_transform"), message, "set it to none, or choose another loss")

    @property
    def goal(self) -> Goal:
        """How numbers to predict are encoded."""
        record = self._record
        levels = self.loss.levels if isinstance(self.loss, QuantileLoss) else ()
        return Goal(self.data.target_transform, record.of_counts, levels, record.relative)

    @property
    def _record(self) -> LossRecord:
        return LOSSES[self.loss.name].one


def settings_of_member(settings: Settings, member: int) -> Settings:
    """Return the settings that one network of several is trained with; ``member`` counts from 0."""
    members, optimizer, model = settings.members, {}, settings.model
    for name in ("learning_rate", "weight_decay"):
        if (each := getattr(members, name)) is not None:
            optimizer[name] = each[member]
    if members.dropout is not None:
        hidden = tuple(block.model_copy(update={"dropout": None}) for block in model.hidden)
        model = model.model_copy(update={"dropout": members.dropout[member], "hidden": hidden})
    training = settings.training.model_copy(update={"seed": member_seed(settings.training.seed, member)})
    return settings.model_copy(
        update={
            "model": model,
            "optimizer": settings.optimizer.model_copy(update=optimizer),
            "training": training,
            "members": Members(),
        }
    )


def _beyond_float32(value: object, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield a problem for each number that a 32-bit float cannot hold."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _beyond_float32(each, (*path, key))
    elif isinstance(value, float) and not (value == 0 or FLOAT32_TINY <= abs(value) <= FLOAT32_MAX):
        limit = f"at most {FLOAT32_MAX:.3g}" if abs(value) > 1 else f"at least {FLOAT32_TINY:.3g}"
        yield Problem(path, f"got {value:g}, outside the range of float32 ({limit})", "or set precision: float64")
