from dataclasses import replace
from pathlib import Path

import pytest

from tests.adapters.toy import CARD, UINT8_CARD, write_toy


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    for suffix in (".onnx", ".pt", ".pt2"):
        write_toy(folder / f"toy{suffix}")
    return folder


@pytest.fixture(scope="session")
def uint8_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with the preprocessing in the graph."""
    folder = tmp_path_factory.mktemp("uint8")
    for suffix in (".onnx", ".pt", ".pt2"):
        write_toy(folder / f"toy{suffix}", UINT8_CARD)
    return folder


@pytest.fixture(scope="session")
def fixed_size_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose card says that it takes images of 24 x 32 alone."""
    spec = replace(CARD.image, height=24, width=32, resize=None, crop=None)
    return write_toy(tmp_path_factory.mktemp("fixed") / "fixed.onnx", replace(CARD, image=spec))
