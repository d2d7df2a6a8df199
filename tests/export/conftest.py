"""Explained models that several tests look at; exports take seconds, so each is made once."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from camcore.export import Explained, explain, save
from tests.export.models import SmallNet, build
from tests.export.passing import CASES
from tests.export.tracing import Traces

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
def peer() -> ModuleType:
    """pytorch-grad-cam, which who moves over comes from."""
    module: ModuleType = pytest.importorskip(
        "pytorch_grad_cam", reason="grad-cam 1.5.7 is not installed"
    )
    return module


@pytest.fixture(scope="session")
def models() -> dict[str, nn.Module]:
    """Those that methods of many passes look at."""
    return {name: build(case.make) for name, case in CASES.items()}


@pytest.fixture(scope="session")
def traces() -> Traces:
    return Traces()


@pytest.fixture(scope="module")
def shared_traces(traces: Traces) -> Iterator[None]:
    """Modules that use it trace a model once for all explanations of it, of which it is half.

    `explain` without it is what the tests of the road are about: `test_compose` and `trace/`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("camcore.export.compose.trace", traces.trace)
        yield


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
