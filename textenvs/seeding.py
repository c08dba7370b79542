"""Counter-based randomness: a function of seed, lane and episode alone.

No generator holds a state between two episodes. An episode's random bits are a hash of its lane's seed and its number,
so lanes may end when they like, and a lane draws the same episodes alone and among a thousand others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count


def episode_random(seeds: NDArray[np.uint64], episodes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns random bits: a pure function of (seed, episode), the same on every machine.

    Args:
        seeds: `(k,)` uint64.
        episodes: `(k,)` uint64, the number of episodes before this one.

    Returns:
        `(k,)` uint64, uniform.

    Source: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators).
    """
    return stream_bits(seed_streams(seeds), episodes + np.uint64(1))


def seed_streams(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Computes the half of `episode_random` that depends on the seed alone, once for all episodes of a lane.

    Args:
        seeds: `(k,)` uint64.

    Returns:
        `(k,)` uint64, one stream for each seed.
    """
    return _mix(seeds + np.uint64(0x9E3779B97F4A7C15))


def stream_bits(streams: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Computes the other half of `episode_random`: the bits of one episode of each stream.

    Args:
        streams: `(k,)` uint64, from `seed_streams`.
        numbers: `(k,)` uint64, the episodes' numbers, from 1.

    Returns:
        `(k,)` uint64, uniform.
    """
    return _mix(streams + numbers * np.uint64(0xD1342543DE82EF95))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def seeds_of(seed: int | Sequence[int], num_lanes: int, group_size: int = 1) -> NDArray[np.uint64]:
    """Returns the seed of every lane: seed + lane // group_size.

    Args:
        seed: One seed, or one for each lane.
        num_lanes: The number of lanes.
        group_size: The number of lanes in a row that share their examples.

    Returns:
        `(num_lanes,)` uint64.

    Raises:
        TypeError: If one of several seeds is not a whole number.
        ValueError: If one of several seeds is less than 0.
    """
    if isinstance(seed, (int, np.integer)):
        groups = np.arange(num_lanes, dtype=np.uint64) // np.uint64(group_size)
        return np.uint64(int(seed) % 2**64) + groups  # unsigned: past the largest seed it goes on from 0
    seeds = [check_count("a lane's seed", lane_seed, least=0) % 2**64 for lane_seed in seed]
    return np.array(seeds, dtype=np.uint64)
