"""From settings to the parts of a run. Below this file nobody sees a configuration."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gpumlp import backend as backends
from gpumlp.backend import Backend, CupyBackend, NativeBackend
from gpumlp.backend.base import switched_on
from gpumlp.backend.geometry import ceil_div
from gpumlp.backend.kernels import TYPES, forms
from gpumlp.config import PLAIN, ClassificationLoss, Loaded, QuantileLoss, Settings, settings_of_member
from gpumlp.data import (
    MIN_SIDE,
    Dataset,
    EncodedRows,
    Encoder,
    MisfitError,
    Prepared,
    SourceCache,
    copies_moved_by,
    moved,
    prepare_files,
    side_of,
)
from gpumlp.errors import ConfigError, DataError, Note, choices
from gpumlp.limits import gigabytes, host_memory
from gpumlp.metrics import METRICS
from gpumlp.nn import LOSSES, Architecture, Ensemble, Loss, Model, Sequential, count_parameters
from gpumlp.nn.ensemble import of_member
from gpumlp.nn.mlp import NO_EMBEDDING
from gpumlp.ops import RECORDS
from gpumlp.ops.precision import PRECISIONS
from gpumlp.ops.record import Op
from gpumlp.ops.updates import GRADIENT_NORM
from gpumlp.optim import OPTIMIZERS, Optimizer, Schedule
from gpumlp.ranks import Ranks
from gpumlp.seeds import CONFORMAL, generator
from gpumlp.store.formats import Arrays
from gpumlp.training.architecture import architecture_of, network_of, size_of
from gpumlp.training.calibration import CALIBRATIONS, MIN_ISOTONIC_ROWS, Temperature
from gpumlp.training.device_data import DeviceData
from gpumlp.training.rows import Encode, Keeping
from gpumlp.training.shards import ranges
from gpumlp.training.trainer import Trainer
from gpumlp.training.windows import Streamed

MAX_PARAMETERS_APART = 200_000
"""Parameters of a network up to which several are faster side by side, a core each, than in turn by all cores.

Their values, gradients and Adam's two averages then about fit the second cache of a core (2 MB). Measured on two
cores, the time side by side over that in turn: 0.70 for two of 82,000, 1.01 for two of 400,000, 1.12 for five.
"""


CPU_RATE = 2e11
"""Operations a second of a few cores: one does 70 to 100 billion in small products."""
BLOCKS_AT_ONCE, BLOCK_RATE, GRAPH_STEP_S = 132, 2e11, 3e-5
"""Blocks that an H100 or H200 runs at once, operations a second of one, and the seconds of a small step as a graph.

Counted, not measured: half of what a block's multipliers can do in float32, and 20 launches of a graph at 1.5 µs.
"""


TRAINED = "trained"
"""Name of the rows of batches among those on the device: those of training, and images moved by some pixels."""


@dataclass(frozen=True)
class Stopping:
    """When to stop before the last epoch: ``patience`` epochs without one better by ``min_delta``."""

    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True)
class Parts:
    """Everything a run is made of.

    Parameters
    ----------
    metric
        The key of ``METRICS`` that the best epoch is chosen by.
    on_device
        Parts of the data on the device, by name.
    members
        Of several networks, the parts of each; ``model`` is their ensemble then, and what else belongs to one
        network is the first's.
    choice, held_out
        The validation rows that choose the best epoch, and those held out of this, for intervals.
    calibration
        What the probabilities get, a value of ``CALIBRATIONS``; None: nothing.
    joint
        Whether all of these keep the weights of one epoch, at which their mean is best.
    snapshots
        Most epochs of one network that predict together by their mean; ``members`` has the parts of the network then.
    shift
        By how many pixels images are moved to train on more of them.
    notes
        On the data, and on what the settings come to with them.
    """

    backend: Backend
    data: Prepared
    architecture: Architecture
    model: Sequential | Ensemble
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    trainer: Trainer
    stopping: Stopping | None = None
    metric: str = "loss"
    on_device: dict[str, DeviceData | Streamed] = field(default_factory=dict)
    members: tuple[Parts, ...] = ()
    joint: bool = False
    choice: EncodedRows | None = None
    held_out: EncodedRows | None = None
    calibration: type[Temperature] | None = None
    snapshots: int = 1
    shift: int = 0
    notes: tuple[Note, ...] = ()


def require_one_run(loaded: Loaded) -> None:
    """Raise ConfigError where the settings ask for a run on each fold of a bag."""
    if (folds := loaded.settings.bag) > 1:
        message = f"bag: {folds} is trained by the command gpumlp train alone"
        raise ConfigError(
            message, where=loaded.where("bag"), hint="set bag: 1, or in Python gpumlp.sweep.bag.train_bag"
        )


def load_data(
    loaded: Loaded, encoder: Encoder | None = None, *, keep_sources: bool = False, cache: SourceCache | None = None
) -> Prepared:
    """Read, divide and encode the data of a configuration.

    The encoding is fitted to the training rows, unless there is one already. Rows that take more memory than they may
    are packed on disk; ``keep_sources`` keeps the raw rows, too, and ``cache`` the files that are read.
    Raises DataError; where a setting does not fit the data, it names the place of the setting.
    """
    cache = cache or SourceCache()
    keeping = Keeping(loaded.settings, encoder, keep_sources=keep_sources, cache=cache)
    prepared = keeping.rows(lambda encode: _read(loaded, encoder, cache=cache, encode=encode))
    if problems := unsuitable(loaded.settings, prepared):
        raise DataError(loaded.report(problems))
    return prepared


def pack_data(loaded: Loaded) -> Prepared:
    """Read, divide and encode the data of a configuration, and leave them in its folder of packed rows.

    Raises DataError as ``load_data`` does.
    """
    return Keeping(loaded.settings, always=True).rows(lambda encode: _read(loaded, None, encode=encode))


def _read(
    loaded: Loaded,
    encoder: Encoder | None,
    *,
    cache: SourceCache | None = None,
    encode: Encode | None = None,
) -> Prepared:
    """Return the rows of a configuration. Raises DataError with the places of settings that do not fit."""
    settings, data = loaded.settings, loaded.settings.data
    assert data.folder is not None  # loading made it absolute
    try:
        return prepare_files(
            data.train,
            query=data.query,
            task=settings.task,
            target=data.target,
            folder=data.folder,
            validation=data.split.validated,
            test=data.split.tested,
            group=data.split.group,
            time=data.split.time,
            scaling=data.scaling,
            dialect=data.dialect,
            drop=data.drop,
            weights=data.weights,
            columns=data.kinds,
            missing_target=data.missing_target,
            goal=settings.goal,
            seed=settings.training.seed,
            encoder=encoder,
            cache=cache,
            encode=encode,
        )
    except MisfitError as error:
        raise DataError(loaded.report((f"data.{setting}", each) for setting, each in error.problems)) from None


def unsuitable(settings: Settings, data: Prepared) -> list[tuple[str, DataError]]:
    """Return the settings that do not fit the classes or the validation rows, each with what is wrong."""
    classes, title = data.encoder.classes or (), settings.data.title
    class_weight = settings.loss.class_weight if isinstance(settings.loss, ClassificationLoss) else None
    problems = [
        (
            f"loss.class_weight.{name}",
            DataError(f"there is no class {name!r}", where=title, hint=choices(name, classes)),
        )
        for name in (class_weight if isinstance(class_weight, Mapping) else ())
        if name not in classes
    ]
    # A preset embeds what numbers there are, and makes tables of what categories.
    if settings.model.numbers.embedding != NO_EMBEDDING and not data.encoder.numbers and settings.preset == PLAIN:
        of_bytes = data.encoder.input_scale != 1.0
        no_numbers = f"there are no columns of numbers to embed{', only bytes' * of_bytes}"
        remedy = "set embedding: none" + ", or data.scaling, by which bytes become numbers" * of_bytes
        problems.append(("model.numbers.embedding", DataError(no_numbers, where=title, hint=remedy)))
    tables = settings.model.categories.table_above
    if tables is not None and not data.encoder.category_values and settings.preset == PLAIN:
        missing = DataError("there are no columns of categories to have tables", where=title, hint="set it to null")
        problems.append(("model.categories.table_above", missing))
    metric, message = settings.training.chosen_metric, None
    if metric == "auc" and len(classes) > 2:
        message, hint = f"AUC is measured for two classes, and there are {len(classes)}", "use accuracy or log_loss"
    elif metric in ("auc", "r2") and data.validation is not None:
        targets, weights = data.validation.targets, data.validation.weights
        assert targets is not None
        seen = targets if weights is None else targets[weights > 0]
        if np.ptp(seen) == 0:
            message = f"{METRICS[metric].title} is not defined: the target is the same in all validation rows"
            hint = "use more validation rows (data.split.validation), or another metric"
    if settings.training.calibration == "isotonic" and data.validation is not None:
        count = len(data.validation) - _held_out(len(data.validation), settings.training.conformal)
        if count < MIN_ISOTONIC_ROWS:
            few = (
                f"isotonic calibration needs at least {MIN_ISOTONIC_ROWS:,} validation rows, and there are {count:,}"
            )
            error = DataError(few, where=title, hint="set calibration: temperature, or use more validation rows")
            problems.append(("training.calibration", error))
    if message is not None:
        problems.append(("training.metric", DataError(message, where=title, hint=hint)))
    shift, side = settings.training.shift, side_of(data.train, flat=True)
    if isinstance(shift, int) and shift and (side is None or shift >= side):
        message = f"{_no_images(data)}, so they cannot be moved"
        if side is not None:
            message = f"images of {side} x {side} pixels cannot be moved by {shift}"
        problems.append(("training.shift", DataError(message, where=title, hint="set shift: 0, or auto")))
    return problems


def _no_images(data: Prepared) -> str:
    """Return a sentence by which the training rows are no images that could be moved."""
    shape = data.train.features.shape
    rows = f"of {data.encoder.width} inputs" if len(shape) == 1 else f"of shape {shape}"
    return f"rows {rows if data.window is None else 'on disk'} are not square images of one byte a pixel in memory"


def _shift_of(settings: Settings, data: Prepared, backend: Backend, held: int) -> tuple[int, tuple[Note, ...]]:
    """Return by how many pixels images are moved to train on more of them, and a note on it.

    ``held`` are the bytes of memory of the rows as they are. Raises ConfigError where the moved ones do not fit, but
    with ``auto``, which is 0 then.
    """
    rows, setting = data.train, settings.training.shift
    if setting == 0:
        return 0, ()
    side, shift = side_of(rows, flat=setting != "auto"), 1 if setting == "auto" else setting
    images = f"{side} x {side} images"
    if side is not None and (side >= MIN_SIDE or setting != "auto"):
        held += (count := copies_moved_by(shift)) * rows.nbytes
        if _have_room(settings, data, backend, held):
            subject = f"rows of {side * side} bytes, as {images}," if len(rows.features.shape) == 1 else f"{images},"
            message = f"{count * len(rows):,} training rows: {subject} each also moved by up to {shift} pixel"
            return shift, (Note(f"{message}{'s' * (shift > 1)} (training.shift)"),)
        reason = f"{images} as they are and moved take {gigabytes(held)} of memory, too much for this machine"
        if setting != "auto":
            raise ConfigError(reason, where="training.shift", hint="set shift: 0")
    elif side is not None:
        reason = f"{images} are not moved, since they are smaller than {MIN_SIDE} x {MIN_SIDE}"
    elif (flat := side_of(rows, flat=True) or 0) >= MIN_SIDE:
        reason = f"rows of {flat * flat} bytes are not moved; if they are {flat} x {flat} images, set shift: 1"
    else:
        reason = f"{_no_images(data)}, and not moved"
    if settings.preset == "images":
        reason += "; as they are dropout 0.4 is better, which preset images has with shift: 0"
    return 0, (Note(f"training.shift auto: {reason}"),)


def _have_room(settings: Settings, data: Prepared, backend: Backend, held: int) -> bool:
    """Return whether so many bytes of rows fit into the memory of the host, and of the backend beside the network."""
    try:
        require_memory(settings, backend.memory, data.encoder, len(data.train), held)
    except ConfigError:
        return False
    host = host_memory()
    return host is None or held <= host


def build(
    settings: Settings,
    data: Prepared,
    backend: Backend | None = None,
    *,
    weights: Arrays | None = None,
    ranks: Ranks | None = None,
    network: Sequential | None = None,
) -> Parts:
    """Return all parts of a run on these data, ready to train.

    Parameters
    ----------
    settings
        Settings of the run.
    data
        The encoded parts.
    backend
        In place of that of the settings.
    weights
        First weights by name, of one network or of all members; None: drawn.
    ranks
        Ranks that train the network together; None: this process alone.
    network
        Built already, to be trained from its weights; None: that of the settings.

    Raises
    ------
    ConfigError
        If the network does not fit into memory, or does not have these weights.
    """
    if settings.model.start_from is not None and weights is None:
        message = "this trains networks with new weights, and model.start_from names others"
        raise ConfigError(message, where="model.start_from", hint="remove it, or use gpumlp train, cv, sweep or fit")
    small = is_small(settings, data.encoder)
    backend = backend or backend_of(settings, small=small)
    settings, on_members = _with_members(settings, backend)
    held = data.nbytes * (1 if data.window is None else settings.members.apart)  # each network has windows of its own
    predicted = 0 if isinstance(backend, CupyBackend) else _bytes_of_snapshots(settings, data)  # in the host's memory
    require_memory(settings, backend.memory, data.encoder, len(data.train), held, predicted=predicted)
    shift, on_shift = _shift_of(settings, data, backend, held)
    rows = moved(data.train, shift) if shift and isinstance(data.train, Dataset) else data.train
    parts = (
        _build_members(settings, data, rows, backend, weights)
        if settings.members.apart > 1
        else _build(settings, data, rows, backend, {}, weights, ranks, network)
    )
    snapshots = settings.training.snapshots
    if snapshots > 1 and data.validation is not None:
        assert isinstance(parts.model, Sequential)
        trained = replace(parts, stopping=None)  # patience is with the mean
        parts = replace(parts, model=Ensemble([parts.model]), members=(trained,), snapshots=snapshots)
    notes = [*data.notes, *on_members, *on_shift]
    if PRECISIONS[settings.precision].tf32 and not backend.tf32:
        message = f"{backend.name} computes matrix products in float32, which is fastest here"
        notes.append(Note(f"precision tf32: {message}"))
    if small and settings.backend == "auto" and isinstance(backend, NativeBackend) and CupyBackend.is_installed():
        message = "steps this small are likely to be faster on the CPU than on a GPU (backend: cupy takes the GPU)"
        notes.append(Note(f"backend auto: {message}"))
    return replace(parts, shift=shift, notes=(*notes, *_lone_row(parts)))


def _with_members(settings: Settings, backend: Backend) -> tuple[Settings, tuple[Note, ...]]:
    """Return settings with a number of members, and a note where the backend decides it."""
    if settings.members.count != "auto":
        return settings, ()
    gpu = isinstance(backend, CupyBackend)
    members = settings.members.on(gpu=gpu)
    note = Note(f"members.count auto: {members.count} networks, as on any {'GPU' if gpu else 'CPU'}")
    return settings.model_copy(update={"members": members}), (note,)


def _build_members(
    settings: Settings, data: Prepared, rows: EncodedRows, backend: Backend, weights: Arrays | None
) -> Parts:
    """Return the parts of a run of several networks."""
    parameters, count = size_of(settings, data.encoder), settings.members.number
    on_device: dict[str, DeviceData | Streamed] = {}
    each_on = backends_side_by_side(backend, count, parameters)
    small = fits_a_block(count, parameters, settings.training.batch_size)
    if small and switched_on("BLOCKS") and (in_block := backend.in_one_block()) is not None:
        each_on = [in_block] * count
    members = tuple(
        _build(settings_of_member(settings, number), data, rows, each, on_device, _of_member(weights, number))
        for number, each in enumerate(each_on)
    )
    ensemble = Ensemble([member.model for member in members if isinstance(member.model, Sequential)])
    joint = settings.members.best == "joint"
    whole = architecture_of(settings, data.encoder)
    return replace(members[0], backend=backend, model=ensemble, architecture=whole, members=members, joint=joint)


def backend_of(settings: Settings, *, small: bool = False, turn: int = 0) -> Backend:
    """Return a new backend as the settings say. ``auto`` is the CPU, where that has kernels, for what is small.

    ``turn`` is the number of this process among those of its machine, which take its GPUs in turn.
    """
    tf32 = PRECISIONS[settings.precision].tf32
    return backends.get(settings.backend, device=settings.device, tf32=tf32, small=small, turn=turn)


def is_small(settings: Settings, encoder: Encoder) -> bool:
    """Return whether a CPU is likely to take a step in less time than a GPU, which needs some for each launch.

    An estimate, from the numbers that are trained and the rows of a batch alone: no device has been timed, and a run
    must not change its backend with the threads of the moment.
    """
    return is_small_step(6 * settings.members.apart * size_of(settings, encoder) * settings.training.batch_size)


def is_small_step(operations: int) -> bool:
    """Return whether a CPU is likely to take a step of so many operations in less time than a GPU."""
    return operations < CPU_RATE * GRAPH_STEP_S


def backends_side_by_side(backend: Backend, count: int, parameters: int) -> list[Backend]:
    """Return a backend for each of several networks: of one thread each where they are faster side by side.

    Parameters
    ----------
    backend
        What all of them are like.
    count
        Networks that are trained at the same time.
    parameters
        How many numbers are trained in the largest of them.
    """
    apart = isinstance(backend, NativeBackend) and backend.threads > 1 < count and parameters <= MAX_PARAMETERS_APART
    return [backend.alone() if apart and isinstance(backend, NativeBackend) else backend for _ in range(count)]


def fits_a_block(count: int, parameters: int, batch: int) -> bool:
    """Return whether several networks are trained sooner by a block each than in turn by the whole device.

    An estimate: no device has been timed.
    """
    turns = ceil_div(count, BLOCKS_AT_ONCE)
    return count > 1 and turns * 6 * parameters * batch / BLOCK_RATE < count * GRAPH_STEP_S


def _of_member(weights: Arrays | None, number: int) -> Arrays | None:
    """Return the first weights of one of several networks: its own, or those of the only one there is."""
    if weights is None:
        return None
    return of_member(weights, number) or weights


def _build(
    settings: Settings,
    data: Prepared,
    rows: EncodedRows,
    backend: Backend,
    on_device: dict[str, DeviceData | Streamed],
    weights: Arrays | None,
    ranks: Ranks | None = None,
    network: Sequential | None = None,
) -> Parts:
    """Return the parts of a run of one network. ``on_device`` holds the rows that are there already, and will be.

    ``rows`` are those to train on: the training rows of ``data``, behind which they may be again, moved.
    """
    encoder, training = data.encoder, settings.training
    architecture, model = network_of(settings, data, backend, weights, network)
    loss = build_loss(settings, model, encoder, data.train)
    optimizer_settings = settings.optimizer
    optimizer = Optimizer(
        optimizer_settings.name,
        model.parameters,
        model.context.clock,
        weight_decay=optimizer_settings.weight_decay,
        clip_norm=optimizer_settings.clip_norm,
        averaging=optimizer_settings.averaging,
        **optimizer_settings.hyper,
    )
    backend.prepare(_likely(settings, loss, optimizer, model, validated=data.validation is not None))
    plan = settings.schedule
    schedule = Schedule(plan.name, learning_rate=optimizer_settings.learning_rate, warmup=plan.warmup, **plan.hyper)
    there = on_device.get(TRAINED)
    trainer = Trainer(
        model,
        loss,
        optimizer,
        schedule,
        there if isinstance(there, DeviceData) else rows,
        epochs=training.epochs_over(len(rows)),
        batch_size=training.batch_size,
        input_scale=encoder.input_scale,
        seed=training.seed,
        drop_last=training.drop_last,
        mixup=training.mixup,
        decay_schedule=_factors(optimizer_settings.decay_schedule),
        dropout_schedule=_factors(settings.model.dropout_schedule),
        shards=training.shards or 1,
        ranks=ranks,
        window=data.window,
    )
    on_device[TRAINED] = here = trainer.data
    # Moved images are behind those as they are, which are measured.
    on_device["train"] = here.first(data.train) if isinstance(here, DeviceData) and rows is not data.train else here
    wanted_stop = training.stopping(trainer.epochs, validated=data.validation is not None)
    stopping = None if wanted_stop is None else Stopping(*wanted_stop)
    choice, held_out = _divided(data.validation, training.conformal, training.seed)
    return Parts(
        backend,
        data,
        architecture,
        model,
        loss,
        optimizer,
        schedule,
        trainer,
        stopping,
        training.chosen_metric,
        on_device,
        choice=choice,
        held_out=held_out,
        calibration=CALIBRATIONS.get(training.calibrates(data.validation is not None))
        if encoder.task == "classification"
        else None,
    )


def _likely(
    settings: Settings, loss: Loss, optimizer: Optimizer, model: Model, *, validated: bool
) -> Iterator[tuple[Op, tuple[str, ...]]]:
    """Yield what an epoch asks of kernels, beside products, with the types: as far as settings show.

    Not what gathers a batch: whoever asks for the first step compiles it, while threads compile these.
    """
    network, context = settings.model, model.context
    names = [network.activation, "accumulate", f"{network.norm}_norm", "dropout" if network.dropout else ""]
    ops: list[Op] = [RECORDS[name] for name in names if name in RECORDS]
    if settings.optimizer.clip_norm is not None:
        ops.append(GRADIENT_NORM)
    wide = TYPES[context.wide.str]
    for op in (*ops, loss.record, optimizer.update):
        narrow = context.dtype != context.wide and op.directions["forward"].narrow
        values, *targets = forms(op)[0].split(", ")
        yield op, (values.format(T="bf16" if narrow else wide), *(each.format(T=wide) for each in targets))
    if validated:
        yield RECORDS[model.link], (wide,)


def _divided(rows: EncodedRows | None, share: float, seed: int) -> tuple[EncodedRows | None, EncodedRows | None]:
    """Return the validation rows that choose the best epoch, and a share of them that does not, for intervals."""
    if rows is None or not share:
        return rows, None
    order = generator(seed, CONFORMAL).permutation(len(rows))
    count = _held_out(len(rows), share)
    if not 0 < count < len(rows):
        message = f"a share of {share:g} of {len(rows)} validation rows is {'all of them' if count else 'no row'}"
        raise DataError(message, where="training.conformal", hint="use more validation rows, or another share")
    return rows.take(np.sort(order[count:])), rows.take(np.sort(order[:count]))


def _held_out(rows: int, share: float) -> int:
    """Return how many validation rows a share is, which do not choose the best epoch."""
    return round(share * rows)


def _factors(name: str) -> Schedule | None:
    """Return the schedule of a factor, None for one that stays 1."""
    return None if name == "constant" else Schedule(name, learning_rate=1.0)


def _lone_row(parts: Parts) -> tuple[Note, ...]:
    """Return a note where an epoch ends with a batch of one row, of which batch norm leaves no more than a bias.

    PyTorch refuses such a batch. A whole run is not to fail for one of its batches, but it is to be known.
    """
    trainer = parts.trainer
    shards = 1 if trainer.shards is None else trainer.shards.count
    if parts.architecture.heads > 1 or not any(layer.mixes_rows for layer in parts.model.layers().values()):
        return ()

    def fits(size: int) -> bool:
        batches = (size, trainer.rows % size) if trainer.batches * trainer.batch_size >= trainer.rows else (size,)
        return all(len(part) != 1 for rows in batches for part in ranges(rows, -(-size // shards), shards))

    if fits(trainer.batch_size):
        return ()
    better = next(size for size in itertools.count(trainer.batch_size + 1) if fits(size))
    lone = "ends with a batch" if shards == 1 else "has a shard"
    of_one_row = f"{lone} of 1 row ({trainer.rows:,} training rows, training.batch_size {trainer.batch_size})"
    hint = f"set training.batch_size to {better}, or norm to layer"
    return (Note(f"each epoch {of_one_row}, too small for batch norm; {hint}"),)


def _bytes_of_snapshots(settings: Settings, data: Prepared) -> int:
    """Return the bytes of what the epochs that are kept, and the latest, make of the rows that choose, in float64."""
    snapshots, outputs = settings.training.snapshots, data.encoder.outputs
    if snapshots == 1 or data.validation is None:
        return 0
    of_two = LOSSES[settings.loss.name].record(outputs).link == "sigmoid"
    rows = len(data.validation) - _held_out(len(data.validation), settings.training.conformal)
    return (snapshots + 1) * rows * outputs * (1 + of_two) * np.dtype(np.float64).itemsize


def require_memory(
    settings: Settings,
    has: int | None,
    encoder: Encoder | None = None,
    rows: int | None = None,
    encoded: int = 0,
    *,
    predicted: int = 0,
) -> None:
    """Raise ConfigError where the numbers that training moves in each step take more than ``has`` bytes.

    These are the parameters, their gradients, and what the optimizer keeps of each; with the number of training
    ``rows`` also the values that members who share layers have each of a batch; the ``encoded`` rows' bytes; and
    those of what epochs have ``predicted``. Without an encoder the network has at least one input and one output.
    """
    inputs, outputs = (encoder.width, encoder.outputs) if encoder else (1, 1)
    architecture, optimizer, precision = (
        architecture_of(settings, encoder),
        settings.optimizer,
        PRECISIONS[settings.precision],
    )
    count, members = count_parameters(architecture, inputs, outputs), settings.members
    copies = 2 + OPTIMIZERS[optimizer.name].slots + (optimizer.averaging is not None)
    copies += settings.training.snapshots if settings.training.snapshots > 1 else 0
    needed = copies * members.apart * count * precision.trained.itemsize
    batch = ""
    if rows is not None and architecture.heads > 1:
        size = min(settings.training.batch_size, rows)
        values = inputs + sum(block.units for block in architecture.hidden) + outputs
        needed += size * architecture.heads * values * precision.dtype.itemsize
        batch = f" in batches of {size:,} rows"
    if has is None or needed + encoded + predicted <= has:
        return
    if needed + encoded <= has:
        snapshots = settings.training.snapshots
        message = f"what {snapshots} epochs predict for the validation rows takes {gigabytes(predicted)}"
        message += f" and all else {gigabytes(needed + encoded)} of memory"
        hint = "set snapshots to a smaller number, or use fewer validation rows"
        raise ConfigError(f"{message}; this machine has {gigabytes(has)}", where="training.snapshots", hint=hint)
    if needed <= has:
        message = f"the encoded rows take {gigabytes(encoded)} and the network {gigabytes(needed)} of memory"
        hint = "train on fewer rows or columns, or use fewer units"
        raise ConfigError(f"{message}; this machine has {gigabytes(has)}", where="data", hint=hint)
    parameters = f"{'' if encoder else 'at least '}{count:,} parameters"
    subject, where, hint = f"a network of {parameters} needs", "model.hidden", "use fewer units"
    if members.number > 1:
        where, hint = "members", "train fewer members, or use fewer units"
        subject = f"{members.number} networks of {parameters} each need"
    if architecture.heads > 1:
        subject = f"a network of {parameters} for {members.number} members needs"
        hint += ", or set a smaller training.batch_size" * bool(batch)
    raise ConfigError(
        f"{subject} at least {gigabytes(needed)} of memory to train with {optimizer.name}{batch}; "
        f"this machine has {gigabytes(has)}",
        where=where,
        hint=hint,
    )


def build_loss(settings: Settings, model: Model, encoder: Encoder, train: EncodedRows | None) -> Loss:
    """Return the loss that the settings ask for. ``train`` is looked at where classes are to be balanced."""
    chosen = settings.loss
    class_weight = chosen.class_weight if isinstance(chosen, ClassificationLoss) else None
    weights = None if class_weight is None else class_weights(class_weight, encoder.classes or (), train)
    targets = len(encoder.target_names)
    levels = chosen.levels * targets if isinstance(chosen, QuantileLoss) else None
    return Loss(chosen.name, model, class_weights=weights, levels=levels, **chosen.hyper)


def class_weights(
    class_weight: Literal["balanced"] | Mapping[str, float], classes: Sequence[str], train: EncodedRows | None
) -> np.ndarray[Any, Any]:
    """Return one weight for each class, float64 (C,).

    ``balanced`` gives a class of n_c rows among n the weight n / (C n_c), rows counted by their weights.
    A class that ``class_weight`` does not name has the weight 1.
    """
    if class_weight == "balanced":
        assert train is not None
        assert train.targets is not None
        counts = np.bincount(train.targets, train.weights, minlength=len(classes))
        return np.asarray(counts.sum() / (len(classes) * np.where(counts > 0, counts, 1.0)))
    return np.array([class_weight.get(name, 1.0) for name in classes])
