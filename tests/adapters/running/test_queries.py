from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.adapters import load
from camcore.adapters.overlay import write_image
from camcore.adapters.runner import Runner
from camcore.adapters.running.queries import with_queries
from camcore.errors import CamcoreError, InputError
from camcore.export import ImageSpec, explain, save
from tests.adapters.cli.calls import camcore, done, failed
from tests.adapters.toy import CARD


class Colours(nn.Module):
    """Embeds an image as the sum of its red, its green and its blue."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.same.weight)

    def forward(self, image: Tensor) -> Any:
        return self.same(image).mean((2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that compares, a picture that is red on the left and blue on the right, vectors."""
    found = tmp_path_factory.mktemp("compare")
    spec = ImageSpec(None, None, mean=(0.0,) * 3, std=(1.0,) * 3, resize=32)
    example = torch.zeros(1, 3, 32, 32)
    explained = explain(Colours().eval(), example, target="dot", layer="same", image_spec=spec)
    save(explained, found / "colours.onnx")
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:, :16, 0], picture[:, 16:, 2] = 200, 255
    write_image(found / "picture.png", picture)
    np.save(found / "red.npy", np.array([1.0, 0.0, 0.0]))
    np.save(found / "others.npy", np.eye(3, dtype=np.float32)[1:])
    return found


def test_what_answers_a_query(folder: Path, tmp_path: Path) -> None:
    """The map of red lies on the left, that of blue on the right."""
    queries = ["--query", folder / "red.npy", "--query", folder / "others.npy"]
    names = [part for name in ("red", "green", "blue") for part in ("--name", name)]
    maps = tmp_path / "maps"
    arguments = [folder / "colours.onnx", folder / "picture.png", *queries, *names]
    said = done(camcore("run", *arguments, "--maps", maps, "-o", tmp_path / "drawn.png"))
    assert "blue" in said
    red, green, blue = (np.load(path) for path in sorted(maps.iterdir()))
    assert red[:, :14].min() > 0.9 > 0.1 > red[:, 18:].max()
    assert blue[:, 18:].min() > 0.9 > 0.1 > blue[:, :14].max()
    assert green.max() == 0
    said = done(camcore("run", *arguments, "--class", "blue", "--maps", tmp_path / "one"))
    assert len(list((tmp_path / "one").iterdir())) == 1


def test_wrong_uses_are_told(folder: Path, tmp_path: Path) -> None:
    file, picture = folder / "colours.onnx", folder / "picture.png"
    assert "embeddings of 3 values: give them" in failed(camcore("run", file, picture))
    np.save(tmp_path / "long.npy", np.ones((2, 4)))
    message = failed(camcore("run", file, picture, "--query", tmp_path / "long.npy"))
    assert "expected floats (Q, 3)" in message
    message = failed(
        camcore("run", file, picture, "--query", folder / "red.npy", "--name", "a", "--name", "b")
    )
    assert "2 names were given for 1 queries" in message
    assert "does not exist" in failed(camcore("run", file, picture, "--query", "none.npy"))


@pytest.mark.parametrize("stored", [np.ones((1, 2, 3)), np.ones(3, dtype=int), np.array("a")])
def test_files_that_hold_no_vectors(folder: Path, tmp_path: Path, stored: Any) -> None:
    np.save(tmp_path / "other.npy", stored)
    with pytest.raises(CamcoreError, match="holds no vectors"):
        with_queries(folder, load(folder / "colours.onnx"), [tmp_path / "other.npy"], [])


def test_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CamcoreError, match=r"no \.npy file of numbers"):
        with_queries(folder, load(folder / "colours.onnx"), [tmp_path / "objects.npy"], [])


def test_a_file_that_takes_none(tmp_path: Path) -> None:
    runner = Runner(CARD, "cpu", lambda given: ())
    assert with_queries(tmp_path, runner, [], []) is runner
    with pytest.raises(InputError, match="takes no queries"):
        with_queries(tmp_path, runner, [tmp_path / "a.npy"], [])
