"""What random numbers are drawn for: purposes that never share a stream."""

import numpy as np

from gpumlp import seeds

PINNED = [2719871111, 3058401676, 3789973791, 1270379155]


def test_no_two_purposes_share_their_numbers():
    purposes = {name: value for name, value in vars(seeds).items() if name.isupper()}
    assert len(set(purposes.values())) == len(purposes) == 12
    draws = [seeds.generator(7, value).integers(2**62, size=4).tobytes() for value in purposes.values()]
    assert len(set(draws)) == len(draws)


def test_the_numbers_are_pinned():
    """A run is what its seed says: other numbers would be other weights, masks, orders and test rows."""
    drawn = [int(seeds.generator(3, value).integers(2**32)) for value in (0, 1, 2, 0x5917)]
    assert drawn == PINNED
    members = [seeds.member_seed(3, number) for number in (0, 1, 2)]
    assert members == [3, 8681278961981808927, 6684638165940483217]
    np.testing.assert_array_equal(
        seeds.generator(3, seeds.SPLIT).integers(99, size=3),
        np.random.default_rng(np.random.SeedSequence(3, spawn_key=(0x5917,))).integers(99, size=3),
    )
