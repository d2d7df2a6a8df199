"""From a file and images to a smaller file, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from camcore.adapters import load, read_card
from camcore.adapters.convert.convert import convert, noise
from camcore.adapters.demo.export import export_scenes
from camcore.adapters.demo.localize import evaluate
from camcore.adapters.demo.scenes import Scene, make_scene
from camcore.adapters.images import prepare
from camcore.card import ImageSpec
from camcore.errors import CamcoreError, InputError, ProofError
from camcore.export import explain, save
from tests.adapters.untrained import build_spots


def scene(seed: int) -> Scene:
    return make_scene(np.random.default_rng([21, seed]))


def photographs(count: int) -> list[NDArray[np.uint8]]:
    return [scene(seed).image for seed in range(count)]


def test_half_of_the_size_and_proven_anew(spots: Path, tmp_path: Path) -> None:
    output = tmp_path / "half.onnx"
    card = convert(spots, output, "half", photographs(6))
    before = read_card(spots)
    assert read_card(output) == card
    assert card.proof["original"] == before.proof
    assert (card.proof["converted"], card.proof["images"], card.proof["of"]) == (
        "half",
        3,
        "photographs",
    )
    assert card.proof["map_correlation"] >= 0.999
    assert (card.method, card.class_names) == (before.method, before.class_names)
    types = {each.data_type for each in onnx.load(output).graph.initializer if each.dims}
    assert onnx.TensorProto.FLOAT16 in types
    image, _ = prepare(photographs(7)[6], card.image)
    original, half = (load(path)(image, [1, -1]) for path in (spots, output))
    assert half.saliency_map.dtype == np.float32
    np.testing.assert_allclose(half.scores, original.scores, atol=0.02)
    np.testing.assert_allclose(half.saliency_map, original.saliency_map, atol=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["half.onnx"]


def test_half_is_proven_on_noise_where_there_are_no_images(spots: Path, tmp_path: Path) -> None:
    card = convert(spots, tmp_path / "half.onnx", "half")
    assert (card.proof["of"], card.proof["images"]) == ("noise", 8)


def test_what_falls_below_the_bound_is_not_written(spots: Path, tmp_path: Path) -> None:
    output = tmp_path / "half.onnx"
    output.write_text("before")
    with pytest.raises(ProofError, match=r"mean correlation .* at least 1.1 is asked for"):
        convert(spots, output, "half", photographs(4), least=1.1)
    assert output.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_refused(
    spots: Path, toy_folder: Path, with_table_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    for file, to, kind, message in (
        (toy_folder / "toy.pt", output, "half", "toy.pt is no .onnx file"),
        (spots, tmp_path / "out.pt", "half", "out.pt is no .onnx file"),
        (spots, output, "int8", "int8 needs images .* 0 were given"),
        (with_table_folder / "table.onnx", output, "half", "takes table beside the image"),
    ):
        with pytest.raises(InputError, match=message):
            convert(file, to, kind)  # type: ignore[arg-type]
    convert(spots, output, "half", photographs(2))
    with pytest.raises(InputError, match="was converted already"):
        convert(output, tmp_path / "again.onnx", "half")


@pytest.mark.parametrize(
    ("spec", "size"),
    [(ImageSpec(None, None), (224, 224)), (ImageSpec(40, 50), (40, 50))],
)
def test_noise_is_of_the_graphs_size(spec: ImageSpec, size: tuple[int, int]) -> None:
    first, *others = noise(spec)
    assert (first.shape, first.dtype) == ((*size, 3), np.uint8)
    assert all((other != first).any() for other in others)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"class_ids": "all"}, {"pixels": True}])
def test_files_of_other_kinds(tmp_path: Path, options: dict[str, Any]) -> None:
    file, output = tmp_path / "file.onnx", tmp_path / "half.onnx"
    model = build_spots()
    example = torch.zeros(2, 3, 64, 64)
    save(explain(model, example, layer="features", image_spec=model.image_spec, **options), file)  # type: ignore[arg-type]
    card = convert(file, output, "half", photographs(4))
    assert card.image.dtype == ("uint8" if "pixels" in options else "float32")


@pytest.mark.slow
def test_the_demo_classifier_keeps_its_maps(tmp_path: Path) -> None:
    """The figures that converted files are to reach."""
    file = tmp_path / "scenes.onnx"
    export_scenes(file)
    images = photographs(100)
    scenes = [scene(seed) for seed in range(1000, 1200)]
    original = load(file)
    in_box = evaluate(original, scenes)["the object's class"].pointing_game
    for kind, size, correlation in (("half", 0.51, 0.999), ("int8", 0.30, 0.99)):
        output = tmp_path / f"{kind}.onnx"
        card = convert(file, output, kind, images)  # type: ignore[arg-type]
        assert output.stat().st_size <= size * file.stat().st_size
        assert card.proof["map_correlation"] >= correlation
        converted = load(output)
        found = evaluate(converted, scenes)["the object's class"].pointing_game
        assert abs(found - in_box) <= 0.01
        same = [best(original, each) == best(converted, each) for each in scenes]
        assert np.mean(same) >= 0.99


def best(runner: Any, scene: Scene) -> int:
    image, _ = prepare(scene.image, runner.card.image)
    return int(runner(image).classes[0, 0])


@pytest.mark.slow
def test_int8_that_is_no_smaller_is_refused(tmp_path: Path) -> None:
    """Score-CAM's passes over masks hold the weights in float32."""
    file = tmp_path / "scorecam.onnx"
    model = build_spots()
    example = torch.zeros(2, 3, 64, 64)
    spec: Any = model.image_spec
    save(explain(model, example, method="scorecam", layer="features", image_spec=spec), file)
    with pytest.raises(CamcoreError, match="would not be smaller in int8"):
        convert(file, tmp_path / "int8.onnx", "int8", photographs(4))
