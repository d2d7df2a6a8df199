"""The whole road, from a model to an overlay, with the real exporter."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from camcore.adapters import load
from camcore.adapters.images import prepare, read_image
from tests.adapters.cli.calls import camcore, done
from tests.export.oracle import fast_in

MODULE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
"""


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_from_model_to_overlay(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The whole road, with the real exporter."""
    (tmp_path / "tiny_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_models", raising=False)
    assert "default" in done(camcore("layers", "tiny_models:build", "--size", "32"))
    file = f"tiny{suffix}"
    done(camcore("export", "tiny_models:build", "--size", "32", "--boxes", "2", "-o", file))
    assert "Sequential" in done(camcore("inspect", file))
    record = json.loads(
        camcore("run", file, photos[0], "--top", "3", "-o", "o.png", "--json", "-").stdout
    )
    (entry,) = record["images"]
    assert sorted(explained["class"] for explained in entry["explained"]) == [0, 1, 2]
    runner = load(file)
    image = read_image(photos[0])
    array, placement = prepare(image, runner.card.image)
    explanation = runner(array, [0, 1, 2])
    assert 0 <= explanation.saliency_map.min() <= explanation.saliency_map.max() <= 1
    best = entry["predictions"][0]
    assert best["score"] == pytest.approx(explanation.scores[0].max(), rel=1e-5)
    powers = np.exp(explanation.scores[0])
    assert best["probability"] == pytest.approx(powers.max() / powers.sum(), rel=1e-5)
    pictures = read_image("o.png")
    assert pictures.shape[2] == 3
    for explained in entry["explained"]:
        boxes = explanation.boxes[0, explained["class"]]
        placed = placement.boxes_to_original(boxes[boxes[:, 0] >= 0], array.shape[2:])
        assert len(placed) >= 1
        found = [box["box"] for box in explained["boxes"]]
        np.testing.assert_allclose(found, placed, atol=0.06)
        scores = [box["score"] for box in explained["boxes"]]
        expected = explanation.box_scores[0, explained["class"], : len(scores)]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    # They are drawn: of the first class in the first picture, enlarged and below its caption.
    factor = -(-240 // image.shape[1])
    x1, y1, x2, _ = (round(edge) for edge in entry["explained"][0]["boxes"][0]["box"])
    first = pictures[-image.shape[0] * factor :, : image.shape[1] * factor][::factor, ::factor]
    assert (first[y1, x1:x2] == 255).all()


def test_segmentation_from_model_to_overlay(
    segmenter_folder: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Scores of pixels are no scores of classes: none is told, and none is made up."""
    file = segmenter_folder / "image.onnx"
    text = (segmenter_folder / "image.txt").read_text()
    assert "gradcam of Segmenter at backbone, target segmentation" in text
    text = done(camcore("inspect", file))
    assert "out, aux, classes, saliency_map" in text
    assert "out │ float32 │ batch x 3 x" in text
    picture = tmp_path / "o.png"
    options = ("--class", "sea", "--class", "sky", "-o", picture)
    record = json.loads(camcore("run", file, photos[0], *options, "--json", "-").stdout)
    assert (record["output"], record["target"]) == ("out", "segmentation")
    (entry,) = record["images"]
    assert entry["predictions"] == []
    assert [(e["name"], e["score"]) for e in entry["explained"]] == [("sea", None), ("sky", None)]
    array, placement = prepare(read_image(photos[0]), load(file).card.image)
    maps = load(file)(array, [1, 0]).saliency_map[0]
    for explained, saliency_map in zip(entry["explained"], maps, strict=True):
        y, x = np.unravel_index(saliency_map.argmax(), saliency_map.shape)
        peak = placement.points_to_original(np.array([x + 0.5, y + 0.5]), saliency_map.shape)
        # Told in tenths of a pixel.
        assert list(explained["peak"].values()) == pytest.approx(peak.tolist(), abs=0.06)
    assert read_image(picture).shape[2] == 3
    text = done(camcore("run", file, photos[0], *options))
    assert "score ┃" not in text
    assert "The maps show the class's pixels together." in text
    text = done(camcore("run", file, photos[0], "--top", "3"))
    assert all(name in text for name in ("sky", "sea", "sand"))
