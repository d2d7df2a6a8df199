"""What takes time while graphs are made, and serves nothing there.

Graphs are many small objects, none of them garbage before the end; looking for it is slow. And
PyTorch keeps what operators make of fake tensors, in case the same comes again: with free sizes it
hardly does.
"""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch._dynamo


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """While it lasts, Python does not look for reference cycles; a fifth of an export's time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def no_fake_cache() -> AbstractContextManager[Any]:
    """While it lasts, what operators make of fake tensors is not kept: a third of a capture."""
    return torch._dynamo.config.patch(fake_tensor_cache_enabled=False)  # type: ignore[no-any-return]
