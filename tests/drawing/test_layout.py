"""Boxes do not overlap, links run forward and around boxes, chains are straight, crossings are few."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp.drawing.layout import LANE, Layout, Link, Point, Route, Size, arrange

BOX = Size(60.0, 14.0, 28.0, 30.0)
LABEL = Size(80.0, 14.0, 8.0, 0.0)
SLACK = 1e-6

CHAIN = [Link(i, i + 1) for i in range(19)]
SKIPS = [*[Link(i, i + 1) for i in range(9)], Link(0, 4), Link(2, 9), Link(4, 8)]
SHARED = [Link(0, 2), Link(1, 2, firm=False), Link(2, 3), Link(1, 3, firm=False), Link(3, 4), Link(1, 4, firm=False)]
TWO_INPUTS = [Link(0, 2), Link(1, 2), Link(2, 3)]
TWO_LOSSES = [Link(0, 1), Link(1, 2), Link(2, 3), Link(1, 4), Link(4, 5), Link(5, 6)]
TWICE = [Link(0, 1), Link(0, 1), Link(1, 2)]
SHAPES = {
    "chain": CHAIN,
    "skips": SKIPS,
    "shared": SHARED,
    "two inputs": TWO_INPUTS,
    "two losses": TWO_LOSSES,
    "twice": TWICE,
}


def boxes_of(links: Sequence[Link]) -> list[Size]:
    return [BOX] * (1 + max(link.target for link in links))


def extents(layout: Layout, sizes: Sequence[Size]) -> list[tuple[float, float, float, float]]:
    return [
        (x - s.width / 2, y - s.above, x + s.width / 2, y + s.below)
        for (x, y), s in zip(layout.centres, sizes, strict=True)
    ]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > SLACK and min(a[3], b[3]) - max(a[1], b[1]) > SLACK


def points(route: Route) -> Iterator[Point]:
    """Points along a route, close enough together to meet any box in its way."""
    at = route.start
    for step in route.steps:
        control = (at, *step) if len(step) == 3 else (at, at, step[0], step[0])
        for t in (i / 40 for i in range(41)):
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            yield (
                sum(w * p[0] for w, p in zip(weights, control, strict=True)),
                sum(w * p[1] for w, p in zip(weights, control, strict=True)),
            )
        at = step[-1]


def check(sizes: Sequence[Size], links: Sequence[Link], layout: Layout) -> None:
    rooms = extents(layout, sizes)
    for link, route in zip(links, layout.routes, strict=True):
        if link.label is not None:
            assert route.label is not None
            x, y = route.label
            half = link.label.width / 2
            rooms.append((x - half, y - link.label.above, x + half, y + link.label.below))
    for one, two in itertools.combinations(rooms, 2):
        assert not overlap(one, two)
    for room in rooms:
        assert room[0] >= -SLACK
        assert room[1] >= -SLACK
        assert room[2] <= layout.width + SLACK
        assert room[3] <= layout.height + SLACK
    for link, route in zip(links, layout.routes, strict=True):
        (x, y), (x2, y2) = layout.centres[link.source], layout.centres[link.target]
        assert route.start == pytest.approx((x + sizes[link.source].reach, y))
        assert route.end == pytest.approx((x2 - sizes[link.target].reach, y2))
        others = [room for i, room in enumerate(rooms[: len(sizes)]) if i not in (link.source, link.target)]
        for px, py in points(route):
            assert not any(a + SLACK < px < c - SLACK and b + SLACK < py < d - SLACK for a, b, c, d in others)


def forward(layout: Layout) -> bool:
    """Return whether every route goes from left to right all the way."""
    return all(
        following[0] >= before[0] - SLACK
        for route in layout.routes
        for before, following in itertools.pairwise(points(route))
    )


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("labelled", [False, True])
def test_nothing_overlaps_and_links_run_forward(name: str, labelled: bool) -> None:
    links = [Link(k.source, k.target, k.firm, LABEL if labelled else None) for k in SHAPES[name]]
    sizes = boxes_of(links)
    wide = arrange(sizes, links, widest=1e9)
    check(sizes, links, wide)
    assert forward(wide)
    folded = arrange(sizes, links, widest=400.0)
    check(sizes, links, folded)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Size], list[Link]]:
    count = draw(st.integers(1, 12))
    length = st.floats(5.0, 120.0)
    sizes = []
    for _ in range(count):
        width = draw(length)
        sizes.append(Size(width, draw(length), draw(length), width / 2 * draw(st.floats(0.3, 1.0))))
    ends = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda e: e[0] < e[1])
    pairs = draw(st.lists(ends, max_size=20)) if count > 1 else []
    label = st.sampled_from([None, LABEL])
    return sizes, [Link(a, b, draw(st.booleans()), draw(label)) for a, b in pairs]


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from([1e9, 500.0, 1.0]))
def test_nothing_overlaps_in_any_graph(graph: tuple[list[Size], list[Link]], widest: float) -> None:
    sizes, links = graph
    layout = arrange(sizes, links, widest=widest)
    check(sizes, links, layout)
    assert widest < 1e9 or forward(layout)


def test_a_chain_is_straight_and_so_is_one_with_parameters() -> None:
    assert len({round(y, 6) for _, y in arrange(boxes_of(CHAIN), CHAIN, widest=1e9).centres}) == 1
    # x → · → + → tanh → ..., with W and b hanging in: what computes stands in one line
    links, spine, last = [], [0], 0
    for at in range(1, 21, 2):
        links += [Link(last, at + 1), Link(at, at + 1, firm=False)]
        last = at + 1
        spine.append(last)
    layout = arrange(boxes_of(links), links, widest=1e9)
    heights = [layout.centres[i][1] for i in spine]
    assert max(heights) - min(heights) < 0.1
    assert all(layout.centres[i][1] > heights[0] for i in range(1, 21, 2))


def test_a_long_link_is_straight_between_its_ends() -> None:
    layout = arrange(boxes_of(SKIPS), SKIPS, widest=1e9)
    route = layout.routes[-2]  # from 2 to 9
    middle = [y for step in route.steps[2:-2] for _, y in step]
    assert max(middle) - min(middle) < 0.1


def test_leaves_stand_just_before_their_use() -> None:
    links = [Link(0, 1), Link(1, 2), Link(2, 3), Link(4, 5, firm=False), Link(3, 5)]
    places = arrange(boxes_of(links), links, widest=1e9).centres
    assert places[4][0] == places[3][0]
    assert places[0][0] < places[1][0] < places[2][0] < places[3][0] < places[5][0]


def test_crossings_are_removed_where_an_order_without_them_exists() -> None:
    """Two chains whose boxes are numbered in turn, swapped halfway: as given they cross, as drawn they do not."""
    links = [Link(0, 3), Link(1, 2), Link(2, 5), Link(3, 4), Link(4, 7), Link(5, 6)]
    layout = arrange(boxes_of(links), links, widest=1e9)
    y = [place[1] for place in layout.centres]
    one, two = (0, 3, 4, 7), (1, 2, 5, 6)
    assert len({y[a] < y[b] for a, b in zip(one, two, strict=True)}) == 1


def test_a_wide_graph_is_folded_where_few_links_run() -> None:
    """A chain of diamonds: it is broken between two of them, where one link runs, not inside of one."""
    links = [Link(4 * i + a, 4 * i + b) for i in range(12) for a, b in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4))]
    layout = arrange(boxes_of(links), links, widest=800.0)
    check(boxes_of(links), links, layout)
    assert layout.width <= 800 + 4 * LANE
    back = [link for link, r in zip(links, layout.routes, strict=True) if r.end[0] < r.start[0]]
    assert len(back) >= 4
    assert {(link.source % 4, link.target % 4) for link in back} == {(3, 0)}


def test_links_to_the_next_band_run_side_by_side_and_do_not_cross() -> None:
    links = [Link(i, i + 4) for i in range(36)]  # four chains beside each other
    layout = arrange(boxes_of(links), links, widest=500.0)
    check(boxes_of(links), links, layout)
    back = [[*points(route)] for route in layout.routes if route.end[0] < route.start[0]]
    assert len(back) % 4 == 0
    assert len(back) >= 4
    for one, two in itertools.combinations(back, 2):
        away = min((a - c) ** 2 + (b - d) ** 2 for a, b in one[::5] for c, d in two[::5])
        assert away > (LANE / 4) ** 2


def test_empty_and_single() -> None:
    assert arrange([], []) == Layout((), (), 0.0, 0.0)
    layout = arrange([BOX], [])
    assert layout.centres == ((30.0, 14.0),)
    assert (layout.width, layout.height) == (60.0, 42.0)


def test_the_same_graph_is_laid_out_the_same() -> None:
    assert arrange(boxes_of(SKIPS), SKIPS) == arrange(boxes_of(SKIPS), SKIPS)
