"""The operations: one record each, and no other list of them in the project."""

from gpumlp.ops.activations import ACTIVATIONS, record_of
from gpumlp.ops.batches import ACCUMULATE, ADVANCE, CODE_SUM, EXPAND, GATHER
from gpumlp.ops.dropout import DROPOUT
from gpumlp.ops.hyper import Hyper
from gpumlp.ops.inputs import LOOKUP, PBLD, PLE
from gpumlp.ops.losses import LOSS_RECORDS
from gpumlp.ops.members import MEMBER_SCALE
from gpumlp.ops.mix import MIX
from gpumlp.ops.norms import BATCH_NORM, LAYER_NORM, MOVING_AVERAGE
from gpumlp.ops.products import MATRIX_PRODUCT
from gpumlp.ops.record import Activation, Direction, Op
from gpumlp.ops.trees import TREE_SUM
from gpumlp.ops.updates import ADD_SQUARE, GRADIENT_NORM, UPDATES, Update

RECORDS: dict[str, Op] = {
    record.name: record
    for record in (
        *ACTIVATIONS.values(),
        *LOSS_RECORDS.values(),
        LAYER_NORM,
        BATCH_NORM,
        MOVING_AVERAGE,
        DROPOUT,
        MEMBER_SCALE,
        MIX,
        EXPAND,
        CODE_SUM,
        PBLD,
        PLE,
        LOOKUP,
        GATHER,
        ADVANCE,
        ACCUMULATE,
        GRADIENT_NORM,
        ADD_SQUARE,
        TREE_SUM,
        MATRIX_PRODUCT,
        *UPDATES.values(),
    )
}

__all__ = [
    "ACTIVATIONS",
    "LOSS_RECORDS",
    "RECORDS",
    "UPDATES",
    "Activation",
    "Direction",
    "Hyper",
    "Op",
    "Update",
    "record_of",
]
