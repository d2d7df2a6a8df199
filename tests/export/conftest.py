"""Explained models that several tests look at; exports take seconds, so each is made once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from camcore.export import Explained, explain, save
from tests.export.models import SmallNet, build

# `block.conv2`: the block's input passes it by, so a skip connection crosses the cut.
LAYER = "block.conv2"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The models are small; more threads than cores would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_net() -> nn.Module:
    return build(SmallNet)


@pytest.fixture(scope="session")
def explained(small_net: nn.Module) -> Explained:
    return explain(small_net, torch.zeros(1, 3, 24, 24), layer=LAYER, dynamic_size=True)


@pytest.fixture(scope="session")
def files(explained: Explained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The explained model in the three formats."""
    folder = tmp_path_factory.mktemp("files")
    paths = {suffix: folder / f"small{suffix}" for suffix in (".onnx", ".pt", ".pt2")}
    for path in paths.values():
        save(explained, path)
    return paths
