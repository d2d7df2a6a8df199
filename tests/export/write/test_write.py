"""What is in every file: the same answers, the card, each weight once."""

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from camcore.adapters.archives import find_extra
from camcore.card import KEY, Card
from camcore.export import Explained, explain, save
from camcore.seal import onnx_is_sealed, zip_is_sealed
from tests.export.conftest import LAYER
from tests.export.models import Borders, SmallNet, build, images
from tests.export.oracle import (
    assert_same,
    explain_by_hand,
    fast_in,
    in_turn,
    run_file,
)

FORMATS = (".onnx", ".pt", ".pt2")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 17, 40), (2, 48, 31)])
def test_other_batch_and_image_sizes(
    suffix: str, shape: tuple[int, ...], files: dict[str, Path], small_net: nn.Module
) -> None:
    image, ids = images(5, *shape), torch.tensor([[-1, 2]])
    assert_same(run_file(files[suffix], image, ids), explain_by_hand(small_net, LAYER, image, ids))


@pytest.mark.parametrize("suffix", FORMATS)
def test_ids_for_each_image(suffix: str, files: dict[str, Path], small_net: nn.Module) -> None:
    image, ids = images(6, 3, 24, 24), torch.tensor([[4, -1, 0], [-1, -1, 1], [2, 2, -1]])
    assert_same(run_file(files[suffix], image, ids), explain_by_hand(small_net, LAYER, image, ids))


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_one_row_of_ids_serves_any_batch(suffix: str, files: dict[str, Path]) -> None:
    image = images(6, 3, 24, 24)
    one, each = (run_file(files[suffix], image, torch.tensor(ids)) for ids in ([[2]], [[2]] * 3))
    np.testing.assert_array_equal(one.saliency_map, each.saliency_map)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_card_and_the_seal(suffix: str, files: dict[str, Path], explained: Explained) -> None:
    content = files[suffix].read_bytes()
    if suffix == ".onnx":
        entries = {
            entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props
        }
        text = entries[KEY]
        assert onnx_is_sealed(io.BytesIO(content))
    else:
        archive = zipfile.ZipFile(io.BytesIO(content))
        found = find_extra(archive, KEY)
        assert found is not None
        text = archive.read(found).decode()
        assert zip_is_sealed(io.BytesIO(content))
    card = Card.from_json(text)
    assert card.layer == explained.card.layer
    assert card.proof["images"] >= 4
    assert card.proof["worst_relative_error"] < 1e-4


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_no_source_paths(suffix: str, files: dict[str, Path]) -> None:
    content = files[suffix].read_bytes()
    assert len(content) > 1000
    texts = [content]
    if suffix != ".onnx":
        archive = zipfile.ZipFile(io.BytesIO(content))
        texts = [archive.read(name) for name in archive.namelist()]
    here = str(Path(__file__).parents[2]).encode()
    site = str(Path(torch.__file__).parent).encode()
    for text in texts:
        assert here not in text
        assert site not in text
        assert b"site-packages" not in text


@pytest.mark.parametrize(("num_classes", "suffix"), in_turn([1, 2], FORMATS))
def test_a_model_of_few_classes(num_classes: int, suffix: str, tmp_path: Path) -> None:
    """As many classes as K in the example, or fewer, must not fix K."""

    def make() -> nn.Module:
        model = SmallNet()
        model.fc = nn.Linear(12, num_classes)
        return model

    model = build(make)
    path = tmp_path / f"few{suffix}"
    save(explain(model, torch.zeros(1, 3, 24, 24), layer=LAYER), path)
    for k in range(1, num_classes + 1):
        image, ids = images(7, 3, 32, 24), torch.full((1, k), -1)
        assert_same(run_file(path, image, ids), explain_by_hand(model, LAYER, image, ids))


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
@pytest.mark.slow
def test_borders_and_statistics(suffix: str, tmp_path: Path) -> None:
    model, path = build(Borders), tmp_path / f"borders{suffix}"
    save(explain(model, torch.zeros(1, 3, 16, 20), layer="stem"), path)
    for batch, size in ((1, (16, 20)), (3, (23, 18))):
        image, ids = images(batch, batch, *size), torch.tensor([[-1, 2]])
        assert_same(run_file(path, image, ids), explain_by_hand(model, "stem", image, ids))
