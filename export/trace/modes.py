"""The caller may have switched modes of PyTorch on; they must not change what is exported."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_modes() -> Iterator[None]:
    """While it lasts, gradients can be taken, and operators compute in their inputs' precision.

    Whatever inference mode or autocast surrounds it: inference mode knows no autograd, and autocast
    would write its own half precision into the graph.
    """
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield
