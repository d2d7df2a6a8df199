"""A written file, run by the library that is made for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from camcore.errors import ProofError
from camcore.export import Explained
from camcore.export.prove.runtimes import RUNTIMES, _in_steps, load
from tests.export.models import images
from tests.export.oracle import worst_error

NAMES = {".onnx": "onnxruntime", ".pt": "TorchScript", ".pt2": "torch.export"}


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_a_file_as_a_function(suffix: str, files: dict[str, Path], explained: Explained) -> None:
    """Of its inputs, at another batch and size; one row of ids serves any batch."""
    name, run = load(files[suffix], explained.card)
    assert name.startswith(NAMES[suffix])
    image, ids = images(1, 3, 17, 40), torch.tensor([[2, -1]])
    for found, expected in zip(run(image, ids), explained(image, ids), strict=True):
        assert worst_error(np.asarray(found), expected.numpy()) < 1e-4


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_what_is_no_such_file(suffix: str, explained: Explained, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ProofError, match=rf"the runtime of \{suffix} files cannot load the file"):
        load(path, explained.card)


@given(steps=st.integers(1, 12), batch=st.integers(1, 3), k=st.integers(1, 3))
def test_every_step_is_taken_once_and_leaves_its_state(
    explained: Explained, steps: int, batch: int, k: int
) -> None:
    card = replace(explained.card, steps=steps, state=("batch", "classes"))
    taken: list[int] = []

    def run(image: Tensor, ids: Tensor, part: Tensor, state: Tensor) -> Any:
        assert state.shape == (batch, k)
        assert (state == sum(taken)).all()
        taken.extend(part.tolist())
        return image.mean(), state, (state + part.sum()).numpy()

    image, ids = torch.ones(batch, 3, 4, 4), torch.zeros(batch, k, dtype=torch.int64)
    outputs = _in_steps(run, card)(image, ids)
    assert sorted(taken) == list(range(steps))
    assert len(outputs) == 2
