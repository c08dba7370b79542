"""Global random generators, which nothing in an environment may read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def reseeded_global_generators() -> Iterator[None]:
    """Puts Python's and NumPy's global generators into another state, and back into their own afterwards.

    A task or environment that gives other results inside has read one of them.
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - a careless task would use it
    random.seed(20_240_229)
    np.random.seed(20_240_229)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
