"""A wrong file of a detector is refused, whatever is wrong with it; a right one is kept."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from torch import Tensor, nn

from camcore.adapters import load
from camcore.errors import InputError, ProofError
from camcore.export import ExplainedDetector, explain, save
from camcore.export.detectors.readings import detr
from camcore.export.prove.detected import Detected
from camcore.export.write.capture import capture
from camcore.export.write.write import WRITERS
from tests.export.detectors.nets import (
    DETECTORS,
    SIZE,
    faster_rcnn,
    image,
    mask_rcnn,
    queries,
    ssd,
)
from tests.export.oracle import fast_in, first_fast

GIVEN = (50, 70)


@pytest.fixture(scope="module")
def explained() -> ExplainedDetector:
    found: Any = explain(ssd(), image(0, GIVEN), top=4, relu=False)
    return found  # type: ignore[no-any-return]


def check_file(explained: ExplainedDetector, path: Path) -> None:
    """On an image that neither the export nor the proof saw, beside autograd."""
    card = save(explained, path)
    assert card.proof["detections"] > 4
    given = load(path)(image(7, GIVEN).numpy())
    eager = Detected.of(explained.request, explained.found, image(7, GIVEN))
    np.testing.assert_allclose(given.scores, eager.found[2].detach(), atol=1e-4)
    np.testing.assert_allclose(given.boxes, eager.found[0].detach(), atol=1e-2)
    assert len(given.detection_maps) == 4
    for place, found in enumerate(given.detection_maps):
        np.testing.assert_allclose(found, eager.map_of(place), atol=1e-3)


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_a_sound_file(suffix: str, explained: ExplainedDetector, tmp_path: Path) -> None:
    check_file(explained, tmp_path / f"ssd{suffix}")


def test_a_pass_back_for_each_in_a_file(tmp_path: Path) -> None:
    reading = partial(detr, score=0.2)
    found: Any = explain(queries(), image(0), detections=reading, relu=False, top=3)
    card = save(found, tmp_path / "queries.onnx")
    assert card.proof["detections"] >= 6
    blind: Any = explain(queries(), image(0), detections=partial(detr, score=0.9999))
    # Not by `save`, for there is nothing to prove it with.
    session = onnxruntime.InferenceSession(WRITERS[".onnx"](capture(blind), blind.card))
    given = session.run(None, {"image": image(1).numpy()})
    assert [each.shape for each in given] == [(0, 4), (0,), (0,), (0, *SIZE)]


def test_regions_in_a_file(tmp_path: Path) -> None:
    found: Any = explain(faster_rcnn(), image(0, GIVEN), top=4, relu=False)
    check_file(found, tmp_path / "rcnn.onnx")
    two = np.concatenate([image(0, GIVEN).numpy()] * 2)
    with pytest.raises(InputError, match="a detector's file takes one"):
        load(tmp_path / "rcnn.onnx")(two)


@pytest.mark.slow
def test_masks_in_a_file(tmp_path: Path) -> None:
    found: Any = explain(mask_rcnn(), image(0, GIVEN), top=4, relu=False)
    save(found, tmp_path / "masks.onnx")
    given = load(tmp_path / "masks.onnx")(image(7, GIVEN).numpy())
    eager = Detected.of(found.request, found.found, image(7, GIVEN))
    np.testing.assert_allclose(given["masks"], eager.found[3].detach(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", first_fast(["fcos", "retinanet"]))
def test_pyramids_in_a_file(name: str, tmp_path: Path) -> None:
    found: Any = explain(DETECTORS[name](), image(0, GIVEN), top=4, relu=False)
    check_file(found, tmp_path / "pyramid.onnx")


class Tampered(nn.Module):
    def __init__(self, body: nn.Module, change: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.change = body, change

    def forward(self, image: Tensor) -> Any:
        return self.change(*self.body(image))


CHANGES: dict[str, tuple[Callable[..., Any], str]] = {
    "maps turned over": (lambda b, n, s, m: (b, n, s, m.flip(-1)), "detection_maps of .* off by"),
    "maps of the neighbour": (
        lambda b, n, s, m: (b, n, s, m.flip(0)),
        "detection_maps of .* off by",
    ),
    "maps scaled": (lambda b, n, s, m: (b, n, s, m * 1.01), "detection_maps of .* off by"),
    "boxes moved": (lambda b, n, s, m: (b + 1, n, s, m), "which eager PyTorch does not"),
    "another label": (lambda b, n, s, m: (b, n + 1, s, m), "which eager PyTorch does not"),
    "one map less": (lambda b, n, s, m: (b, n, s, m[1:]), r"maps of shape \(3, 50, 70\)"),
    "the last forgotten": (lambda b, n, s, m: (b[:-1], n[:-1], s[:-1], m), "finds 11 objects"),
    "the other order": (
        lambda b, n, s, m: (b.flip(0), n.flip(0), s.flip(0), m),
        "another order",
    ),
}


@pytest.mark.parametrize("name", first_fast(CHANGES))
def test_a_tampered_file(name: str, explained: ExplainedDetector, tmp_path: Path) -> None:
    change, told = CHANGES[name]
    wrong = ExplainedDetector(
        Tampered(explained.body, change), explained.request, explained.found, explained.card
    ).eval()
    with pytest.raises(ProofError, match=told):
        save(wrong, tmp_path / "wrong.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_map_of_an_image_in_a_file(tmp_path: Path) -> None:
    found: Any = explain(ssd(), image(0, GIVEN), method="eigencam")
    card = save(found, tmp_path / "eigen.onnx")
    assert card.proof["detections"] > 4
    given = load(tmp_path / "eigen.onnx")(image(7, GIVEN).numpy()).saliency_map
    eager = Detected.of(found.request, found.found, image(7, GIVEN))
    np.testing.assert_allclose(given[0, 0], eager.map_of_image(), atol=1e-3)

    turned = Tampered(found.body, lambda b, n, s, m: (b, n, s, m.flip(-1)))
    wrong = ExplainedDetector(turned, found.request, found.found, found.card).eval()
    with pytest.raises(ProofError, match=r"saliency_map from .* off by"):
        save(wrong, tmp_path / "wrong.pt2")


def test_where_nothing_is_found_nothing_is_proven(tmp_path: Path) -> None:
    model: Any = ssd()
    model.score_thresh = 0.9999999
    blind: Any = explain(model, image(0, GIVEN))
    with pytest.raises(ProofError, match="finds nothing in the example"):
        save(blind, tmp_path / "blind.pt2")
