from pathlib import Path

import pytest
import torch
from torch import nn

from tests.adapters.sources.onnx.nets import Net, export


@pytest.fixture(scope="session")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="session", params=["dynamo", "older"])
def file(
    request: pytest.FixtureRequest, net: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The net by either of PyTorch's exporters, for one image."""
    path = tmp_path_factory.mktemp("onnx") / f"{request.param}.onnx"
    export(net, path, dynamo=request.param == "dynamo")
    return path
