"""What holds for every operation in the table, in each of its directions."""

from __future__ import annotations

import numpy as np
import pytest
from support import FLOATS, assert_close, bits, directions, examples, in_float64, poison, run

from gpumlp.backend import Backend
from gpumlp.errors import ShapeError
from gpumlp.ops import ACTIVATIONS, LOSS_RECORDS, RECORDS, UPDATES
from gpumlp.ops.record import Activation

SHAPES = [(1, 1), (2, 3), (31, 33), (32, 32), (33, 31), (1, 1025), (1023, 2), (1025, 1)]
EMPTY = [(0, 3), (0, 1)]
EVERY = list(directions())

pytestmark = pytest.mark.parametrize(("name", "direction"), EVERY)


def formula_outputs(op, direction, inputs, params):
    with np.errstate(all="ignore"):
        return op.directions[direction].formula(np, *inputs, **params)


@pytest.mark.parametrize("dtype", FLOATS)
def test_specs_tell_what_the_formula_returns(name, direction, dtype):
    op = RECORDS[name]
    made = op.directions[direction]
    for rows, cols in [*SHAPES, *EMPTY]:
        for inputs, params in examples(op, direction, rows, cols, dtype):
            specs = made.specs(*inputs, **params)
            results = formula_outputs(op, direction, inputs, params)
            assert len(specs) == len(results) == len(made.outputs)
            assert len(inputs) == len(made.inputs)
            for label, spec, result in zip(made.outputs, specs, results, strict=True):
                if spec is None:
                    assert result is None
                    assert label.endswith("?")
                else:
                    assert np.shape(result) == spec[0], (rows, cols)
                    assert np.asarray(result).dtype == spec[1], (rows, cols)


@pytest.mark.parametrize("dtype", FLOATS)
def test_outputs_are_overwritten_wholly_and_inputs_not_at_all(name, direction, dtype):
    op = RECORDS[name]
    made = op.directions[direction]
    for rows, cols in [*SHAPES, *EMPTY]:
        for inputs, params in examples(op, direction, rows, cols, dtype):
            before = [None if v is None else bits(v) for v in inputs]
            specs = made.specs(*inputs, **params)
            given = [None if spec is None else poison(*spec) for spec in specs]
            results = Backend().run(op, direction, inputs, given, **params)
            expected = formula_outputs(op, direction, inputs, params)
            for result, place, wanted in zip(results, given, expected, strict=True):
                assert result is place
                assert wanted is None or bits(result) == bits(np.asarray(wanted, result.dtype))
            assert before == [None if v is None else bits(v) for v in inputs]


def test_float32_agrees_with_the_formula_in_float64(name, direction):
    op = RECORDS[name]
    for rows, cols in [(2, 3), (33, 31), (5, 1025), (1025, 2)]:
        for inputs, params in examples(op, direction, rows, cols, np.float32):
            wide = {k: "<f8" if k == "dtype" else v for k, v in params.items()}
            exact = formula_outputs(op, direction, in_float64(inputs), wide)
            for result, reference in zip(run(op, direction, *inputs, **params), exact, strict=True):
                if result is not None and result.dtype == np.float32:
                    # a norm of two values magnifies their rounding by up to 1/√ε
                    small = min(rows, cols) == 2 and "norm" in name
                    assert_close(result, reference, "reduction", scale=100 if small else 1)


def test_an_output_may_be_the_array_of_an_input(name, direction):
    op = RECORDS[name]
    made = op.directions[direction]
    for inputs, params in examples(op, direction, 7, 5, np.float32):
        specs = made.specs(*inputs, **params)
        expected = [None if r is None else bits(r) for r in run(op, direction, *inputs, **params)]
        copies = [None if v is None else v.copy() for v in inputs]
        places, free = [], list(copies)
        for spec in specs:
            fits = (i for i, v in enumerate(free) if v is not None and spec and (v.shape, v.dtype) == spec)
            at = next(fits, None)
            places.append(None if at is None else free[at])
            if at is not None:
                free[at] = None
        results = Backend().run(op, direction, copies, places, **params)
        assert [None if r is None else bits(r) for r in results] == expected


def test_a_wrong_output_is_refused(name, direction):
    op = RECORDS[name]
    inputs, params = next(examples(op, direction, 4, 3, np.float32))
    specs = op.directions[direction].specs(*inputs, **params)
    shape, dtype = specs[0]
    for wrong in (np.empty((*shape, 2), dtype), np.empty(shape, np.int8)):
        with pytest.raises(ShapeError, match=f"{name}_{direction} gives"):
            Backend().run(op, direction, inputs, [wrong, *(None for _ in specs[1:])], **params)


def test_the_tables_are_complete(name, direction):
    op = RECORDS[name]
    assert op.name == name
    assert op.meaning
    assert op.entry(direction) == f"{name}_{direction}"
    tables = [table for table in (ACTIVATIONS, LOSS_RECORDS, UPDATES) if name in table]
    assert all(table[name] is op for table in tables)
    if isinstance(op, Activation):
        assert op.directions.keys() - {"mixed_forward", "mixed_backward"} == {
            *("forward", "backward", "bias_forward", "bias_backward")
        }
