import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from camcore.adapters import load
from camcore.adapters.images import read_image
from camcore.adapters.running.volumes import (
    Volume,
    VolumePlacement,
    prepare_volume,
    read_volume,
    slices,
)
from camcore.card import ImageSpec
from camcore.errors import FileError, InputError
from camcore.export import explain, save
from tests.adapters.cli.calls import camcore, done, failed

SPEC = ImageSpec(None, None, channels=1, mean=(0.5,), std=(0.25,), spatial_ndim=3)
SHAPE = (10, 12, 14)


class Net(nn.Module):
    """The mean over the volume of what is bright; class 1 of what is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv3d(1, 2, 1)
        self.features.weight.data = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.features(volume).relu().mean((2, 3, 4))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volumes") / "volumes.onnx"
    explained = explain(Net().eval(), torch.rand(1, 1, 8, 9, 10), layer="features", image_spec=SPEC)
    save(explained, path)
    return path


@pytest.fixture
def volume() -> Any:
    """Dark but for a block of voxels and its middle."""
    values = np.zeros(SHAPE, np.float32)
    values[5:8, 2:5, 9:12] = 0.8
    values[6, 3, 10] = 1.0
    return values


def test_maps_have_the_shape_of_the_volume(file: Path, volume: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", volume)
    np.savez(tmp_path / "b.npz", volume=volume[None])
    call = ("run", file, tmp_path / "a.npy", tmp_path / "b.npz", "--class", "0")
    where = ("--maps", tmp_path / "maps", "-o", tmp_path / "slices", "--json", "-")
    images = json.loads(camcore(*call, *where).stdout)["images"]
    array, _ = prepare_volume(Volume(volume[None]), SPEC)
    expected = load(file)(array, class_ids=0)
    for image in images:
        (explained,) = image["explained"]
        assert explained["peak"] == {"i": 6, "j": 3, "k": 10}
        assert explained["score"] == pytest.approx(float(expected.scores[0, 0]), rel=1e-5)
        saved = np.load(explained["map"])
        assert saved.shape == SHAPE
        np.testing.assert_allclose(saved, expected.saliency_map[0, 0], atol=1e-5)
        picture = read_image(image["overlay"])
        assert picture.shape[1] >= 240
        assert picture.max() > 200


def test_nifti_keeps_its_affine(file: Path, volume: Any, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    affine[:3, 3] = (-30, -40, 10)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    done(camcore("run", file, path, "--class", "1", "--maps", tmp_path / "maps"))
    (written,) = (tmp_path / "maps").iterdir()
    assert written.name == "scan.class1.nii.gz"
    saved = nibabel.load(written)
    np.testing.assert_array_equal(saved.affine, affine)
    assert saved.shape == SHAPE
    assert saved.get_fdata().max() == pytest.approx(1, abs=1e-5)
    assert saved.get_fdata()[6, 3, 10] == 0


def test_wrong_volumes_are_told(file: Path, toy_folder: Path, volume: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", volume[0])
    np.savez(tmp_path / "two.npz", a=volume, b=volume)
    np.save(tmp_path / "nan.npy", np.full(SHAPE, np.nan, np.float32))
    (tmp_path / "broken.nii.gz").write_text("broken")
    told = {
        "flat.npy": "holds an array of (12, 14); expected 1 channels of a volume",
        "two.npz": "holds a, b; expected a single array",
        "nan.npy": "holds values that are no finite real numbers",
    }
    for name, message in told.items():
        assert message in failed(camcore("run", file, tmp_path / name), 3)
    np.save(tmp_path / "a.npy", volume)
    message = failed(camcore("run", toy_folder / "toy.onnx", tmp_path / "a.npy"))
    assert "takes images of height x width, not volumes" in message
    small = ImageSpec(None, 14, 1, mean=(0.0,), std=(1.0,), spatial_ndim=3, depth=8)
    with pytest.raises(InputError, match="the volume is 10 x 12 x 14, the file takes 8 x any x 14"):
        prepare_volume(Volume(volume[None]), small)
    pytest.importorskip("nibabel")
    with pytest.raises(FileError, match="is not a NIfTI file"):
        read_volume(tmp_path / "broken.nii.gz", 1)


@given(st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.randoms())
def test_the_peak_of_a_coarse_map_lies_in_its_voxels(size: Any, factor: Any, random: Any) -> None:
    """Of a volume that is so many times as large, in the block that the map's voxel stands for."""
    highest = tuple(random.randrange(length) for length in size)
    saliency_map = np.zeros(size, np.float32)
    saliency_map[highest] = 1
    shape = tuple(np.multiply(size, factor).tolist())
    placement = VolumePlacement(shape)
    peak = placement.peak_to_original(saliency_map)
    if saliency_map.size == 1:
        assert peak is None
        return
    assert peak is not None
    np.testing.assert_array_equal(peak // factor, highest)
    placed = placement.map_to_original(saliency_map)
    assert placed.shape == shape
    assert placed[tuple(peak.astype(int))] == placed.max() or max(factor) > 1


def test_slices_meet_in_a_point(volume: Any) -> None:
    drawn = slices(
        Volume(volume[None]),
        np.zeros(SHAPE, np.float32),
        np.array([6, 3, 10]),
        colormap="jet",
        opacity=0.0,
    )
    height, gap = 12, 4
    assert drawn.shape == (height, 14 + gap + 14 + gap + 12, 3)
    assert (drawn[3, 10] == 255).all()  # across the first axis
    assert (drawn[6, 14 + gap + 10] == 255).all()
    assert (drawn[6, 28 + 2 * gap + 3] == 255).all()
