"""Counter-based randomness: a function of seed, lane and episode alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count


def episode_random(seeds: NDArray[np.uint64], episodes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Counter-based random bits: a pure function of (seed, episode), the same on every machine.

    Args:
        seeds: `(k,)` uint64.
        episodes: `(k,)` uint64, how many episodes came before this one.

    Returns:
        `(k,)` uint64, uniform.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators).
    """
    return _bits(_streams(seeds), episodes + np.uint64(1))


def _streams(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The half of `episode_random` that the seed alone decides."""
    return _mix(seeds + np.uint64(0x9E3779B97F4A7C15))


def _bits(streams: NDArray[np.uint64], counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The other half: an episode's bits, by its number from 1."""
    return _mix(streams + counts * np.uint64(0xD1342543DE82EF95))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def seeds_of(seed: int | Sequence[int], num_lanes: int, group_size: int = 1) -> NDArray[np.uint64]:
    """The seed of every lane: seed + lane // group_size.

    Args:
        seed: One seed, or one for each lane.
        num_lanes: How many lanes.
        group_size: How many lanes in a row share their examples.

    Returns:
        `(num_lanes,)` uint64.

    Raises:
        TypeError: If one of several seeds is not a whole number.
        ValueError: If one of several seeds is less than 0.
    """
    if isinstance(seed, (int, np.integer)):
        groups = np.arange(num_lanes, dtype=np.uint64) // np.uint64(group_size)
        return np.uint64(int(seed) % 2**64) + groups
    return np.array([check_count("a lane's seed", one, least=0) % 2**64 for one in seed], dtype=np.uint64)
