"""Where the boxes of a layered graph stand, and how the links between them run.

After Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures" (1981), from
left to right: a layer for each box by the longest path to it, links of several layers led through points between
the boxes, few crossings by barycentres, then heights that keep links straight. A drawing that would be too wide is
folded as text is: it goes on below, at the left.

Knows no computation and no file format. All lengths are in pixels; y grows downwards.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

GAP_X, GAP_Y = 34.0, 16.0  # between columns, and between what stands in one
LANE = 16.0  # between the lines that lead from the end of one band to the start of the next
CORNER = 8.0  # radius where these lines turn
SWEEPS = 12
STRAIGHTENINGS, STILL = 150, 0.01  # at most so many, or until nothing moves by more pixels
UNEVEN_BAND_COST = 4.0  # how many broken links a band of twice the fair width, or of none, is as bad as
STRAIGHT, SPINE, BEND = 8.0, 4.0, 0.25  # how much a link of two points, of two boxes, of both wants to be level
FOLLOWER_WEIGHT = 1e-3  # how much it matters where what only follows comes to stand

Point = tuple[float, float]
Step = tuple[Point, ...]
"""A piece of a route: one point is the end of a straight line, three are those of a cubic curve."""


@dataclass(frozen=True)
class Size:
    """How much room a box takes: its width, and how far it reaches above and below the height of its links.

    ``reach`` is how far to the left and right of its centre links end.
    """

    width: float
    above: float
    below: float
    reach: float


NOTHING = Size(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Link:
    """A link between two boxes, by number. One that is not ``firm`` follows its target and never bends its way.

    ``label`` is the room for a text that is to stand on the link.
    """

    source: int
    target: int
    firm: bool = True
    label: Size | None = None


@dataclass(frozen=True)
class Route:
    """The way of a link: where it starts, its steps, and where its label stands."""

    start: Point
    steps: tuple[Step, ...]
    label: Point | None

    @property
    def end(self) -> Point:
        return self.steps[-1][-1]


@dataclass(frozen=True)
class Layout:
    """Where everything stands: ``centres`` are those of the boxes, at the height of their links."""

    centres: tuple[Point, ...]
    routes: tuple[Route, ...]
    width: float
    height: float


def arrange(sizes: Sequence[Size], links: Sequence[Link], *, widest: float = 1500.0) -> Layout:
    """Return the layout of an acyclic graph, whose links all go from a box of a lower number to one of a higher."""
    grid = _Grid(sizes, links, _layers(len(sizes), links))
    grid.reduce_crossings()
    return _Bands(grid, widest).layout(len(sizes))


def _layers(count: int, links: Sequence[Link]) -> list[int]:
    """Return the layer of each box by the longest path to it; what nothing leads to stands just before its use."""
    layers = [0] * count
    entered = [False] * count
    spans = [2 if link.label else 1 for link in links]  # a label takes a layer of its own
    for link, span in sorted(zip(links, spans, strict=True), key=lambda pair: pair[0].target):
        layers[link.target] = max(layers[link.target], layers[link.source] + span)
        entered[link.target] = True
    uses: dict[int, int] = {}
    for link, span in zip(links, spans, strict=True):
        latest = layers[link.target] - span
        uses[link.source] = min(latest, uses.get(link.source, latest))
    return [uses.get(box, 0) if not entered[box] else layer for box, layer in enumerate(layers)]


class _Grid:
    """The graph with points in place of long links: each link of ``pairs`` goes from one layer to the next.

    The vertices are the boxes, then the points. ``columns`` are the vertices of each layer, from above.
    """

    def __init__(self, sizes: Sequence[Size], links: Sequence[Link], layers: Sequence[int]) -> None:
        self.boxes, self.sizes, self.layers = len(sizes), list(sizes), list(layers)
        ages = [float(box) for box in range(len(sizes))]
        self.lines: list[list[int]] = [[box] for box in range(len(sizes))]  # by vertex: what is to be level with it
        self.chains: list[list[int]] = []
        self.labelled: list[int | None] = []
        self.before: list[list[tuple[int, float]]] = [[] for _ in sizes]
        self.after: list[list[tuple[int, float]]] = [[] for _ in sizes]
        for link in links:
            chain = [link.source]
            for layer in range(layers[link.source] + 1, layers[link.target]):
                last = layer == layers[link.target] - 1
                chain.append(len(self.sizes))
                self.sizes.append(link.label if link.label and last else NOTHING)
                self.layers.append(layer)
                self.lines.append([len(self.lines)])
                self.before.append([])
                self.after.append([])
                ages.append(link.source if link.firm else link.target + 0.5)
            self.labelled.append(chain[-1] if link.label else None)
            chain.append(link.target)
            self.chains.append(chain)
            short = len(chain) == (3 if link.label else 2)  # a label on the way is no detour
            for one, two in itertools.pairwise(chain):
                inner = one >= self.boxes and two >= self.boxes
                weight = SPINE if short else STRAIGHT if inner else BEND
                self.before[two].append((one, weight if link.firm else 0.0))
                self.after[one].append((two, weight if link.firm else 0.0))
                if inner or (short and link.firm):
                    self._join(one, two)
        self.columns: list[list[int]] = [[] for _ in range(max(self.layers, default=-1) + 1)]
        for vertex in sorted(range(len(self.sizes)), key=lambda v: ages[v]):
            self.columns[self.layers[vertex]].append(vertex)
        self.y = [0.0] * len(self.sizes)

    def _join(self, one: int, two: int) -> None:
        """Make one line of two that end and begin with these vertices, unless another line goes on there."""
        if self.lines[one][-1] == one and self.lines[two][0] == two:
            line = [*self.lines[one], *self.lines[two]]
            for vertex in line:
                self.lines[vertex] = line

    # ---- crossings -------------------------------------------------------------------------------

    def reduce_crossings(self) -> None:
        """Put each column into the order of its neighbours' mean places, to and fro; keep the best order seen."""
        best, best_columns = self.crossings(), [list(column) for column in self.columns]
        for sweep in range(SWEEPS):
            if best == 0:
                break
            forward = sweep % 2 == 0
            neighbours = self.before if forward else self.after
            for column in self.columns if forward else reversed(self.columns):
                self._sort(column, neighbours)
            count = self.crossings()
            if count < best:
                best, best_columns = count, [list(column) for column in self.columns]
        self.columns = best_columns

    def _sort(self, column: list[int], neighbours: Sequence[Sequence[tuple[int, float]]]) -> None:
        position = {v: i for c in self.columns for i, v in enumerate(c)}
        wish = {}
        for vertex in column:
            positions = [position[other] for other, _ in neighbours[vertex]]
            wish[vertex] = sum(positions) / len(positions) if positions else position[vertex]
        column.sort(key=wish.__getitem__)

    def crossings(self) -> int:
        """Return how many pairs of links cross."""
        total = 0
        for column, following in zip(self.columns, self.columns[1:], strict=False):
            position = {v: i for i, v in enumerate(following)}
            ends = [p for v in column for p in sorted(position[other] for other, _ in self.after[v])]
            seen: list[int] = []
            for end in ends:
                total += len(seen) - bisect.bisect_right(seen, end)
                bisect.insort(seen, end)
        return total

    # ---- heights ---------------------------------------------------------------------------------

    def level(self, band: range) -> None:
        """Give each vertex of some columns a height: as level with its neighbours there as its column's order allows.

        The lines come to rest where their ends pull them; then each is straightened wherever it can be, by
        projecting in turn on what is straight and on what does not overlap.
        """
        columns = [self.columns[i] for i in band]
        here = {vertex for column in columns for vertex in column}
        before = {v: [pair for pair in self.before[v] if pair[0] in here] for v in here}
        after = {v: [pair for pair in self.after[v] if pair[0] in here] for v in here}
        both = {v: [*before[v], *after[v]] for v in here}
        for column in columns:
            self._settle(column, [(0.0, 1.0)] * len(column))
        for sweep in range(2 * SWEEPS):
            near = before if sweep == 0 else both
            for column in columns if sweep % 2 == 0 else reversed(columns):
                self._settle(column, [self._wish(v, near[v] or both[v]) for v in column])
        lines = {v: [other for other in self.lines[v] if other in here] for v in here}
        for _ in range(STRAIGHTENINGS):
            start = {v: self.y[v] for v in here}
            for column in columns:
                self._settle(
                    column,
                    [
                        (sum(start[other] for other in lines[v]) / len(lines[v]), float(len(lines[v])))
                        if len(lines[v]) > 1
                        else (self._wish(v, both[v])[0], FOLLOWER_WEIGHT)
                        for v in column
                    ],
                )
            if max(abs(self.y[v] - start[v]) for v in here) < STILL:
                break

    def _wish(self, vertex: int, near: Sequence[tuple[int, float]]) -> tuple[float, float]:
        """Return the height at which a vertex would be level with its neighbours, and how much that matters."""
        mass = sum(weight for _, weight in near)
        if mass:
            return sum(self.y[v] * weight for v, weight in near) / mass, mass
        return (sum(self.y[v] for v, _ in near) / len(near) if near else self.y[vertex]), FOLLOWER_WEIGHT

    def _settle(self, column: Sequence[int], wishes: Sequence[tuple[float, float]]) -> None:
        """Set the heights of a column to the nearest to its wishes, by least squares, in which nothing overlaps.

        With the room that the ones above need taken off, heights need only not decrease: isotonic regression, which
        pooling adjacent violators solves (Barlow and others 1972).
        """
        room, offsets = 0.0, []
        for above, vertex in zip((None, *column), column, strict=False):
            if above is not None:
                room += self.sizes[above].below + GAP_Y + self.sizes[vertex].above
            offsets.append(room)
        pools: list[tuple[float, float, int]] = []  # mean, mass, count
        for (wish, mass), offset in zip(wishes, offsets, strict=True):
            pool = (wish - offset, mass, 1)
            while pools and pools[-1][0] > pool[0]:
                mean, other, count = pools.pop()
                both = other + pool[1]
                pool = ((mean * other + pool[0] * pool[1]) / both, both, count + pool[2])
            pools.append(pool)
        means = [mean for mean, _, count in pools for _ in range(count)]
        for vertex, mean, offset in zip(column, means, offsets, strict=True):
            self.y[vertex] = mean + offset


class _Bands:
    """Columns side by side, in as many bands below each other as the width asks for."""

    def __init__(self, grid: _Grid, widest: float) -> None:
        self.grid = grid
        self.widths = [max(grid.sizes[v].width for v in column) for column in grid.columns]
        self.cuts = [sum(len(grid.after[v]) for v in column) for column in grid.columns]  # links to the next column
        self.bands = self._fold(widest)
        for band in self.bands:
            grid.level(band)
        self.band_of = {column: number for number, band in enumerate(self.bands) for column in band}
        lanes = max((self.cuts[band[-1]] for band in self.bands[:-1]), default=0)
        self.margin = LANE * (1 + lanes) if lanes else 0.0
        self.x: list[float] = [0.0] * len(self.widths)
        self.shift, self.gutters, self.ends = [], [], []
        top = 0.0
        for number, band in enumerate(self.bands):
            left = self.margin
            for column in band:
                self.x[column] = left + self.widths[column] / 2
                left += self.widths[column] + GAP_X
            self.ends.append(left - GAP_X)
            vertices = [v for column in band for v in grid.columns[column]]
            self.shift.append(top - min(grid.y[v] - grid.sizes[v].above for v in vertices))
            top = self.shift[-1] + max(grid.y[v] + grid.sizes[v].below for v in vertices)
            lanes = self.cuts[band[-1]] if number < len(self.bands) - 1 else 0
            self.gutters.append(top + LANE)
            top += LANE * (lanes + 1) if lanes else 0.0
        self.width, self.height = max(self.ends, default=0.0) + self.margin, top

    def _fold(self, widest: float) -> list[range]:
        """Divide the columns into bands: about as wide as each other, none too wide, broken where few links run."""
        count = len(self.widths)
        total = sum(self.widths) + GAP_X * max(count - 1, 0)
        if total <= widest:
            return [range(count)] if count else []
        fair = total / math.ceil(total / widest)
        costs, starts = [0.0], [0]  # of the first so many columns: the least cost, and where their last band starts
        for end in range(1, count + 1):
            best, width = (math.inf, end - 1), -GAP_X
            for start in range(end - 1, -1, -1):
                width += self.widths[start] + GAP_X
                if width > widest and start < end - 1:
                    break
                broken = self.cuts[end - 1] if end < count else 0
                cost = costs[start] + UNEVEN_BAND_COST * (width / fair - 1) ** 2 + broken
                best = min(best, (cost, start))
            costs.append(best[0])
            starts.append(best[1])
        bands: list[range] = []
        end = count
        while end:
            bands.append(range(starts[end], end))
            end = starts[end]
        return bands[::-1]

    def layout(self, boxes: int) -> Layout:
        """Return the places of the boxes and the routes of the links."""
        lanes: dict[tuple[int, int], int] = {}
        for band in self.bands[:-1]:
            last = band[-1]
            crossing = [
                (chain[i], chain[i + 1])
                for chain in self.grid.chains
                for i in range(len(chain) - 1)
                if self.grid.layers[chain[i]] == last
            ]
            crossing.sort(key=lambda pair: (self._centre(pair[0])[1], self._centre(pair[1])[1]))
            lanes |= {pair: lane for lane, pair in enumerate(reversed(crossing))}
        routes = [
            self._route(chain, label, lanes)
            for chain, label in zip(self.grid.chains, self.grid.labelled, strict=True)
        ]
        return Layout(tuple(self._centre(box) for box in range(boxes)), tuple(routes), self.width, self.height)

    def _centre(self, vertex: int) -> Point:
        column = self.grid.layers[vertex]
        return self.x[column], self.grid.y[vertex] + self.shift[self.band_of[column]]

    def _route(self, chain: Sequence[int], label: int | None, lanes: dict[tuple[int, int], int]) -> Route:
        x, y = self._centre(chain[0])
        start = (x + self.grid.sizes[chain[0]].reach, y)
        steps: list[Step] = []
        for one, two in itertools.pairwise(chain):
            column, following = self.grid.layers[one], self.grid.layers[two]
            leave = self.x[column] + self.widths[column] / 2
            y1, (x2, y2) = self._centre(one)[1], self._centre(two)
            enter = self.x[following] - self.widths[following] / 2
            steps.append(((leave, y1),))
            if self.band_of[column] == self.band_of[following]:
                middle = (leave + enter) / 2
                steps.append(((middle, y1), (middle, y2), (enter, y2)))
            else:
                steps += self._turn((leave, y1), (enter, y2), lanes[one, two], self.band_of[column])
            if two == chain[-1]:
                steps.append(((x2 - self.grid.sizes[two].reach, y2),))
        return Route(start, tuple(steps), None if label is None else self._centre(label))

    def _turn(self, leave: Point, enter: Point, lane: int, band: int) -> list[Step]:
        """Lead a link from the end of a band along a lane of the gutter to the start of the next."""
        # The topmost link takes the outermost way on the right, the lowest lane, the innermost way on the left.
        count = self.cuts[self.bands[band][-1]]
        right = self.ends[band] + LANE * (lane + 1)
        low = self.gutters[band] + LANE * lane
        left = self.margin - LANE * (count - lane)
        corners = [leave, (right, leave[1]), (right, low), (left, low), (left, enter[1]), enter]
        steps: list[Step] = []
        for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
            steps += [(_towards(corner, before),), (corner, corner, _towards(corner, after))]
        return [*steps, (enter,)]


def _towards(corner: Point, other: Point) -> Point:
    """Return the point where a turn at a corner begins, on the side of another point."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    share = min(CORNER, math.hypot(dx, dy) / 2) / (math.hypot(dx, dy) or 1.0)
    return corner[0] + dx * share, corner[1] + dy * share
