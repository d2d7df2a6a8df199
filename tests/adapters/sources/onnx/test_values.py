import numpy as np
import pytest
import torch

from camcore.adapters.sources.onnx.node import NotReadError
from camcore.adapters.sources.onnx.values import (
    as_array,
    as_ints,
    as_number,
    as_tensor,
    is_known,
    operand,
    whole_type,
)


def test_what_is_known_without_the_image() -> None:
    assert is_known(np.zeros(2), np.zeros(()))
    assert not is_known(np.zeros(2), torch.zeros(2))


def test_a_constant_takes_the_precision_of_what_it_meets() -> None:
    array = np.ones(3, np.float32)
    assert as_tensor(array, torch.zeros(3, dtype=torch.float64)).dtype == torch.float64
    assert as_tensor(np.array([1]), torch.zeros(3)).dtype == torch.int64
    assert operand(np.full((1, 1), 2.0), torch.zeros(2, 2)) == 2.0
    assert isinstance(operand(np.full((1, 1), 2.0), torch.zeros(2)), torch.Tensor)  # of more axes


def test_sizes_must_be_known() -> None:
    assert as_ints(as_array([2, 3])) == [2, 3]
    assert as_number(np.array([4])) == 4
    assert as_number(None) is None
    with pytest.raises(NotReadError, match="computed from the image"):
        as_ints(torch.tensor([2]))
    with pytest.raises(NotReadError, match="type number 8"):
        whole_type(8)
