"""One seed, many independent streams of random numbers."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream is drawn for; the numbers are part of the frozen difficulties, so they never change."""

    COMPOSITION = 0
    GENES = 1
    PANEL = 2
    TECHNOLOGY_EFFECT = 3
    SHAPE = 4
    CELL_TYPES = 5
    SECTION_EFFECT = 6
    COUNTS = 7


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of ``stream`` and ``key`` (a section, a block of cells) under ``seed``.

    Streams with different keys are independent, so a section or a block is drawn the same whatever is drawn before
    it. NumPy keeps the bits of :class:`numpy.random.PCG64` fixed for ever, and its distributions nearly so.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), *key))))
