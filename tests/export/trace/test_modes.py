"""The caller's modes: they change nothing of a file, and are as they were afterwards."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from camcore.export import explain, list_layers, save
from camcore.export.trace.modes import plain_modes
from tests.export.models import images
from tests.export.oracle import assert_same, explain_by_hand, run_file

MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
LAYER = "block"


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        pytest.param("no_grad", ".onnx", marks=pytest.mark.slow),
        ("inference_mode", ".pt"),
        ("autocast", ".onnx"),
    ],
)
def test_a_file_is_the_same_in_any_mode(
    mode: str, suffix: str, small_net: nn.Module, tmp_path: Path
) -> None:
    surrounding: AbstractContextManager[Any] = MODES[mode]()
    with surrounding:
        example = torch.zeros(1, 3, 24, 24)
        explained = explain(small_net, example, layer=LAYER, dynamic_size=False)
        save(explained, tmp_path / f"model{suffix}")
    image, ids = images(2, 3, 24, 24), torch.tensor([[-1, 2]])
    given = run_file(tmp_path / f"model{suffix}", image, ids)
    assert_same(given, explain_by_hand(small_net, LAYER, image, ids))


def test_layers_are_listed_in_inference_mode(small_net: nn.Module) -> None:
    with torch.inference_mode():
        assert [layer.name for layer in list_layers(small_net, torch.zeros(1, 3, 24, 24))]


def test_the_modes_are_as_they_were_afterwards() -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with plain_modes():
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
