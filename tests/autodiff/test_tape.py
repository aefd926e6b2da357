"""The rules of the tape: what may be asked, what is answered, what is kept alive."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from gpumlp import autodiff as ad
from gpumlp.autodiff import GradientTape, Tensor, Variable, activate, dense
from gpumlp.autodiff.tape import recording
from gpumlp.backend import Backend
from gpumlp.errors import BackendError, ShapeError, TapeError
from gpumlp.ops import LOSS_RECORDS


def var(*values, **named):
    return Variable(np.array(values, np.float64), **named)


def test_a_target_that_is_no_scalar_stands_for_its_sum():
    x = var(1.0, 2.0, 3.0)
    with GradientTape(persistent=True) as tape:
        y = x * x
        total = ad.sum(y)
    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), [2, 4, 6])
    np.testing.assert_array_equal(tape.gradient(total, x).numpy(), [2, 4, 6])


def test_output_gradients_weigh_the_target():
    x = var(1.0, 2.0)
    with GradientTape(persistent=True) as tape:
        y = x * x
    assert tape.gradient(y, x, Tensor([1.0, 10.0])).numpy().tolist() == [2, 40]
    with pytest.raises(ShapeError, match=r"shape \(3,\), the target has \(2,\)"):
        tape.gradient(y, x, Tensor(np.ones(3)))


def test_output_gradients_of_a_fused_loss():
    """The gradient that was computed with the loss must be scaled, unless the scale is the tape's own 1."""
    z = Variable(np.ones((2, 3)))
    for scale in (1.0, 3.0):
        with GradientTape() as tape:
            loss, _ = ad.loss_value(LOSS_RECORDS["squared_error"], z, np.zeros((2, 3)))
        got = tape.gradient(loss, z, Tensor(np.array(scale)))
        np.testing.assert_allclose(got.numpy(), scale * 2 / 6)
    with GradientTape() as tape:
        loss, _ = ad.loss_value(LOSS_RECORDS["squared_error"], z, np.zeros((2, 3)))
        total = loss * 5.0 + loss
    np.testing.assert_allclose(tape.gradient(total, z).numpy(), 6 * 2 / 6)


def test_sources_that_do_not_matter_get_none():
    x, y = var(1.0), var(2.0)
    with GradientTape() as tape:
        z = x * 3.0
        y * 4.0
    dx, dy = tape.gradient(z, [x, y])
    assert dx.numpy().tolist() == [3]
    assert dy is None
    with GradientTape() as tape:
        pass
    assert tape.gradient(Tensor(1.0), x) is None


def test_one_source_gives_a_tensor_and_a_list_a_list():
    x = var(1.0)
    for sources, kind in ((x, Tensor), ([x], list), ((x,), list)):
        with GradientTape() as tape:
            y = x * 2.0
        assert isinstance(tape.gradient(y, sources), kind)


def test_refusals():
    x, unwatched = var(1.0), Tensor(np.ones(1))
    with GradientTape() as tape:
        y = x * unwatched
    with pytest.raises(TapeError, match=r"source 1 \(float64 \(1,\)\) was never watched"):
        tape.gradient(y, [x, unwatched])
    with pytest.raises(TapeError, match="source 0 is a ndarray"):
        tape.gradient(y, [np.ones(1)])
    with pytest.raises(TapeError, match="the target is a float"):
        tape.gradient(1.0, x)
    assert tape.gradient(y, x).numpy().tolist() == [1]  # a refusal costs nothing
    with pytest.raises(TapeError, match="was already used for a gradient"):
        tape.gradient(y, x)


def test_whole_numbers_have_no_gradient():
    count = Tensor(np.array([1, 2]))
    with GradientTape() as tape:
        tape.watch(count)
        y = count * 2.0
    with pytest.raises(TapeError, match="dtype int64: only floating point"):
        tape.gradient(y, count)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: x > 0.0, r"bool \(2, 3\), made by greater of \(2, 3\), \(\),"),
        (lambda x: x >= np.zeros(3), r"bool \(2, 3\), made by greater_equal of \(2, 3\), \(3,\),"),
        (lambda x: x.astype(np.int64), r"int64 \(2, 3\), made by cast of \(2, 3\),"),
    ],
)
def test_a_target_that_cannot_be_differentiated_is_named_with_its_operation(function, told):
    x = Variable(np.ones((2, 3)))
    with GradientTape() as tape:
        y = function(x)
    with pytest.raises(TapeError, match=told):
        tape.gradient(y, x)
    with GradientTape() as tape, pytest.raises(TapeError, match=r"int64 \(1,\), has no gradient"):
        tape.gradient(Tensor(np.array([1])), x)


def test_targets_and_weights_of_a_loss_have_no_gradient():
    z, t = Variable(np.ones((2, 3))), Variable(np.zeros((2, 3)))
    op = LOSS_RECORDS["squared_error"]
    with GradientTape(persistent=True) as tape:
        loss, _ = ad.loss_value(op, z, t)
    assert tape.gradient(loss, z) is not None
    with pytest.raises(TapeError, match="no gradient for its targets"):
        tape.gradient(loss, t)


def test_a_watched_tensor_is_a_source():
    x = Tensor(np.array([2.0]))
    with GradientTape() as tape:
        tape.watch(x)
        y = x**3
    assert tape.gradient(y, x).numpy().tolist() == [12]


def test_what_happens_before_and_after_the_tape_is_not_recorded():
    x = var(2.0)
    before = x * 3.0
    with GradientTape() as tape:
        y = before * x
        assert recording()
    assert not recording()
    after = y * 10.0
    assert tape.gradient(y, x).numpy().tolist() == [6]
    with GradientTape() as tape:
        pass
    assert tape.gradient(after, x) is None


def test_a_persistent_tape_answers_again_with_the_same():
    x, W, b = var(1.0, 2.0), Variable(np.eye(2)), var(0.1, 0.2)
    with GradientTape(persistent=True) as tape:
        h = dense(x, W, b, "tanh")
        y = ad.sum(h * h)
    first = tape.gradient(y, [x, W, b, h])
    for _ in range(2):
        for a, c in zip(first, tape.gradient(y, [x, W, b, h]), strict=True):
            np.testing.assert_array_equal(a.numpy(), c.numpy())
    np.testing.assert_allclose(tape.gradient(h, b).numpy(), 1 - h.numpy() ** 2)


def test_intermediate_results_are_sources():
    x = var(3.0)
    with GradientTape() as tape:
        u = x * 2.0
        v = u * u
        w = v + u
    du, dv, dw, dx = tape.gradient(w, [u, v, w, x])
    assert [float(g) for g in (du, dv, dw, dx)] == [13, 1, 1, 26]


def test_a_target_that_is_used_further_on():
    x = var(3.0)
    with GradientTape(persistent=True) as tape:
        y = x * x
        z = y * y
    assert float(tape.gradient(y, x)) == 6
    assert float(tape.gradient(z, x)) == 108
    assert float(tape.gradient(y, y)) == 1
    assert tape.gradient(y, z) is None


def test_skips_and_shared_weights_add_up():
    rng = np.random.default_rng(0)
    W, b, x = Variable(rng.standard_normal((3, 3))), Variable(rng.standard_normal(3)), rng.standard_normal((4, 3))

    def network(x, W, b):
        h = dense(x, W, b, "tanh")
        h = dense(h, W, b, "tanh") + h
        return ad.concat([h, dense(h, W, b)]) * ad.sum(W)

    ad.gradcheck(network, [x, W.numpy(), b.numpy()])


def test_several_inputs_and_outputs():
    x, y = var(2.0), var(5.0)
    with GradientTape(persistent=True) as tape:
        p, q = x * y, x + 3.0 * y
    assert [float(g) for g in tape.gradient(p, [x, y])] == [5, 2]
    assert [float(g) for g in tape.gradient(q, [x, y])] == [1, 3]
    with GradientTape() as tape:
        both = ad.stack([x * y, x + 3.0 * y])
    assert [float(g) for g in tape.gradient(both, [x, y])] == [6, 5]


def test_the_same_tensor_in_every_place():
    x = var(1.0, 2.0, 4.0)
    with GradientTape() as tape:
        y = x * x + x / x - x @ x + ad.where(x > 1.5, x, x)
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), 2 * x.numpy() + 1 - 3 * 2 * x.numpy())


def test_the_same_tensor_twice_in_a_fused_operation_to_the_second_derivative():
    x, v = np.random.default_rng(0).standard_normal((4, 3)), var(0.5, 1.0, 2.0)

    def value():
        return ad.sum(ad.layer_norm(x, v, v) ** 2)

    with GradientTape() as tape:
        y = value()
    first = tape.gradient(y, v).numpy()
    with GradientTape(), GradientTape() as inner:
        y = value()
        nested = inner.gradient(y, v).numpy()
    np.testing.assert_allclose(nested, first, rtol=1e-12)


# ---- into ----------------------------------------------------------------------------------------


def layer():
    rng = np.random.default_rng(0)
    x, W, b = (Variable(rng.standard_normal(s)) for s in ((4, 3), (3, 2), (2,)))
    unused = Variable(np.ones(3))
    return x, W, b, unused


@pytest.mark.parametrize("activation", ["tanh", "identity", "gelu"])
@pytest.mark.parametrize("uses", [1, 2])
def test_into_writes_what_gradient_returns_and_zeros_for_the_rest(activation, uses):
    x, W, b, unused = layer()
    sources = [x, W, b, unused]

    def value():
        y = dense(x, W, b, activation)
        return ad.sum(y if uses == 1 else y * dense(x * 2.0, W, b, activation))

    with GradientTape() as tape:
        y = value()
    expected = tape.gradient(y, sources)
    places = [np.full(s.shape, np.nan) for s in sources]
    with GradientTape() as tape:
        y = value()
    returned = tape.gradient(y, sources, into=places)
    for want, got, place in zip(expected, returned, places, strict=True):
        assert (want is None) == (got is None)
        np.testing.assert_array_equal(place, 0.0 if want is None else want.numpy())


def test_into_makes_the_gradient_in_place_where_it_can():
    x, W, b, _ = layer()
    places = [np.empty((3, 2)), np.empty(2)]
    with GradientTape() as tape:
        y = dense(x, W, b, "tanh")
    dW, db = tape.gradient(y, [W, b], into=places)
    assert dW.array is places[0]
    assert db.array is places[1]


def test_into_again_on_a_persistent_tape_does_not_add():
    x, W, b, _ = layer()
    place = np.empty((3, 2))
    with GradientTape(persistent=True) as tape:
        y = dense(x, W, b, "tanh")
    tape.gradient(y, [W], into=[place])
    first = place.copy()
    tape.gradient(y, [W], into=[place])
    np.testing.assert_array_equal(place, first)


def test_into_for_a_source_that_is_asked_twice():
    x, a, b = var(1.0, 3.0), np.empty(2), np.empty(2)
    with GradientTape() as tape:
        y = x * x
    tape.gradient(y, [x, x], into=[a, b])
    assert a.tolist() == b.tolist() == [2, 6]


def test_into_must_fit():
    x = var(1.0, 3.0)
    with GradientTape() as tape:
        y = x * x
    for wrong in ([np.empty((3, 2))], [np.empty(2), np.empty(2)], []):
        with pytest.raises(ShapeError, match="into has shapes"):
            tape.gradient(y, [x], into=wrong)


# ---- nesting, memory, depth ----------------------------------------------------------------------


def test_a_tape_that_is_asked_inside_its_own_block_does_not_record_the_asking():
    x = var(2.0)
    with GradientTape(persistent=True) as tape:
        y = x**3
        before = len(tape.nodes)
        assert float(tape.gradient(y, x)) == 12
        assert len(tape.nodes) == before
        assert recording()


def test_an_error_inside_the_block_ends_the_recording():
    with pytest.raises(ZeroDivisionError), GradientTape():
        1 / 0  # noqa: B018
    assert not recording()


def test_an_outer_tape_sees_the_gradient_of_the_inner_one():
    x = var(2.0)
    with GradientTape() as outer:
        with GradientTape() as inner:
            y = activate("sigmoid", x)
        g = inner.gradient(y, x)
    s = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(outer.gradient(g, x).numpy(), s * (1 - s) * (1 - 2 * s), rtol=1e-12)


def test_mixed_second_derivatives():
    x, y = var(2.0), var(3.0)
    with GradientTape() as outer:
        with GradientTape() as inner:
            z = x**2 * y**3
        dx = inner.gradient(z, x)
    dxx, dxy = outer.gradient(dx, [x, y])
    assert (float(dxx), float(dxy)) == (54, 2 * 2 * 3 * 9)


@pytest.mark.parametrize("ask", [True, False])
def test_dropping_a_tape_frees_its_arrays_without_the_garbage_collector(ask):
    gc.collect()
    gc.disable()
    try:
        x, W, b = Variable(np.ones((4, 3))), Variable(np.ones((3, 2))), Variable(np.ones(2))
        seen = []

        def note(tensor):
            seen.append(weakref.ref(tensor))
            return tensor

        with GradientTape() as tape:
            h = note(dense(x, W, b, "tanh"))
            h = note(ad.layer_norm(h, np.ones(2), np.zeros(2)))
            h = note(ad.concat([h[:, :1], ad.exp(h)]))
            y = note(ad.loss_value(LOSS_RECORDS["squared_error"], h, np.zeros((4, 3)))[0])
        if ask:
            gradients = tape.gradient(y, [x, W, b])
            assert all(g is not None for g in gradients)
            del h, y
            assert all(ref() is None for ref in seen)  # the answer was given: the tape has let go
        else:
            del h, y
            assert all(ref() is not None for ref in seen)
            del tape
            assert all(ref() is None for ref in seen)
    finally:
        gc.enable()


def test_a_deep_graph_needs_no_recursion():
    x = var(1.0)
    with GradientTape() as tape:
        y = x
        for _ in range(20_000):
            y = y + 0.5
    assert y.numpy().tolist() == [10_001]
    assert tape.gradient(y, x).numpy().tolist() == [1]


def test_tapes_of_two_threads_do_not_meet():
    import threading

    x, found = var(2.0), []

    def other():
        found.append(recording())
        with GradientTape() as tape:
            y = x * 5.0
        found.append(float(tape.gradient(y, x)))

    with GradientTape() as tape:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [False, 5.0]
    assert tape.nodes == []


# ---- tensors -------------------------------------------------------------------------------------


def test_tensors_as_values():
    x = Tensor([[1.0, 2.0]], name="x")
    assert (x.shape, x.ndim, x.size, len(x), x.dtype) == ((1, 2), 2, 2, 1, np.float32)
    assert "'x'" in repr(x)
    assert "float32" in repr(x)
    assert float(Tensor(2.5)) == 2.5
    assert bool(Tensor([1.0]))
    with pytest.raises(ShapeError, match="no single value"):
        float(x)
    with pytest.raises(ShapeError, match="no single value"):
        bool(x)
    copy = x.numpy()
    copy[...] = 0
    assert x.numpy().tolist() == [[1, 2]]


def test_variables_are_assigned_in_place():
    v = Variable([1.0, 2.0], name="v")
    array = v.array
    v.assign([3.0, 4.0])
    v.assign(Tensor([5.0, 6.0]))
    assert v.array is array
    assert v.numpy().tolist() == [5, 6]
    with pytest.raises(ShapeError, match=r"shape \(3,\) were assigned to v \(2,\)"):
        v.assign([1.0, 2.0, 3.0])


def test_a_gradient_works_on_every_backend_and_not_across():
    a = Variable([1.0], Backend())
    with GradientTape() as tape:
        y = a * 2.0
    assert tape.gradient(y, a).backend is a.backend
    with pytest.raises(BackendError, match="two backends"):
        a * Variable([1.0], Backend())


def test_an_identity_that_is_used_again_is_not_taken_for_a_gradient() -> None:
    v = Variable(np.ones(2))
    with GradientTape(persistent=True) as tape:
        y = v * v
        gradient = tape.gradient(y, v)
        assert tape.tracks(gradient)  # computed, but not recorded: the tape refuses what is made from it
        known = id(gradient)
        del gradient
        others = [Tensor(1.0) for _ in range(1000)]
        (again,) = [other for other in others if id(other) == known] or [Tensor(1.0)]
        assert not tape.tracks(again)


def test_arguments_may_be_named() -> None:
    a, b = Variable([1.0, 4.0]), Variable([3.0, 2.0])
    for function, want in ((ad.mul, (b, a)), (ad.sub, ([1, 1], [-1, -1])), (ad.maximum, ([0, 1], [1, 0]))):
        for given in (((a,), {"b": b}), ((), {"a": a, "b": b}), ((), {"b": b, "a": a})):
            with GradientTape() as tape:
                y = function(*given[0], **given[1])
            for found, expected in zip(tape.gradient(y, [a, b]), want, strict=True):
                np.testing.assert_array_equal(found.numpy(), np.asarray(expected, np.float64))
    with pytest.raises(ShapeError):
        ad.mul(a, a=b)
    with pytest.raises(ShapeError):
        ad.mul(b=a)
