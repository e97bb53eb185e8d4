"""Float32, whatever default type of new tensors another tool has left behind in the session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_default() -> Iterator[None]:
    """Let new tensors be float32 in this block, or in the function that this decorates.

    ``torch.set_default_dtype`` holds for the whole session, and decides what ``torch.zeros``, ``nn.Linear`` and the
    product of a whole number and a fraction are. Tables and weights here are float32, which do not go with others; and
    what is drawn depends on the type as well, so that a seed would not repeat. The default is put back afterwards.
    """
    before = torch.get_default_dtype()
    if before == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
