"""Boxes in the file: OpenCV's on the file's own maps, in every format, whatever else is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from camcore.adapters.files import read_card
from camcore.errors import ExportError, InputError, ProofError
from camcore.export import Explained, explain, save
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, build, images
from tests.export.oracle import run_any_file
from tests.export.prove.test_prove import tampered
from tests.export.write.test_onnx_file import axes

COUNT = 8
FORMATS = (".onnx", ".pt", ".pt2")


def expected_boxes(saliency_map: np.ndarray, count: int) -> list[list[int]]:
    """The boxes of OpenCV's largest components above its threshold."""
    _, mask = cv2.threshold(np.uint8(255 * saliency_map), 0, 255, cv2.THRESH_OTSU)
    _, labels, found, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    firsts = {n: np.flatnonzero(labels == n)[0] for n in range(1, len(found))}
    numbers = sorted(firsts, key=lambda n: (-found[n, cv2.CC_STAT_AREA], firsts[n]))
    rows = [found[n, :4].tolist() for n in numbers[:count]]
    boxes = [[x, y, x + width, y + height] for x, y, width, height in rows]
    return boxes + [[-1] * 4] * (count - len(boxes))


def assert_boxes(given: Sequence[Any], likely: np.ndarray, count: int = COUNT) -> None:
    """Fail unless classes, maps, boxes and scores belong together; `likely` is (B, N)."""
    classes, maps, boxes, scores = (np.asarray(each) for each in given)
    assert boxes.shape == (*maps.shape[:2], count, 4)
    assert boxes.dtype == scores.dtype == np.float32
    for b, k in np.ndindex(maps.shape[:2]):
        assert boxes[b, k].tolist() == expected_boxes(maps[b, k], count)
        means = [
            maps[b, k, y1:y2, x1:x2].mean() if x1 >= 0 else 0.0
            for x1, y1, x2, y2 in boxes[b, k].astype(int).tolist()
        ]
        expected = np.array(means) * likely[b, classes[b, k]]
        np.testing.assert_allclose(scores[b, k], expected, rtol=1e-4, atol=1e-6)


def softmax(scores: Any) -> np.ndarray:
    return torch.as_tensor(np.asarray(scores)).softmax(dim=1).numpy()


@pytest.fixture(scope="module")
def boxed(small_net: nn.Module) -> Explained:
    return explain(small_net, EXAMPLE, layer=LAYER, boxes=COUNT, dynamic_size=True)


@pytest.fixture(scope="module")
def boxed_files(boxed: Explained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("boxed")
    paths = {suffix: folder / f"boxed{suffix}" for suffix in FORMATS}
    for path in paths.values():
        save(boxed, path)
    return paths


@pytest.mark.parametrize("suffix", FORMATS)
def test_in_every_format(suffix: str, boxed_files: dict[str, Path]) -> None:
    """Exported and proven on other images, at other sizes and with other numbers of classes."""
    numbers, tops = set(), set()
    for batch, height, width, ids in [
        (1, 24, 24, [[-1]]),
        (3, 41, 30, [[4, 0, 2], [1, 3, 2], [-1, -1, 0]]),
        (2, 64, 97, [[0, 1, 2, 3, -2]]),  # the last one is no class, and has no boxes
    ]:
        image = images(height, batch, height, width)
        given = run_any_file(boxed_files[suffix], image, torch.tensor(ids))
        scores, *found = given.values()
        assert_boxes(found, softmax(scores))
        boxes = found[2].reshape(-1, COUNT, 4)
        numbers |= set((boxes[..., 0] >= 0).sum(axis=1).tolist())
        tops |= set(map(tuple, boxes[:, 0].tolist()))
    assert {COUNT} < numbers  # padded or not
    assert len(tops) > 10


def test_eagerly(boxed: Explained) -> None:
    explanation = boxed(images(1, 2, 30, 40), class_ids=torch.tensor([[3, 1]]))
    assert explanation._fields == ("scores", "classes", "saliency_map", "boxes", "box_scores")
    assert_boxes(explanation[1:], softmax(explanation.scores))


def test_what_the_file_says(boxed: Explained, boxed_files: dict[str, Path]) -> None:
    for path in boxed_files.values():
        card = read_card(path)
        assert card.boxes == boxed.card.boxes == COUNT
        assert card.outputs == ("scores", "classes", "saliency_map", "boxes", "box_scores")
        assert card.own_outputs == ("scores",)
        assert card.options["box_confidence"] == "softmax"
    graph = onnx.load(boxed_files[".onnx"]).graph
    shapes = {value.name: axes(value) for value in graph.output}
    assert shapes["boxes"] == ["batch", "k", COUNT, 4]
    assert shapes["box_scores"] == ["batch", "k", COUNT]
    assert [node.op_type for node in graph.node].count("Loop") == 1


def test_none_unless_asked(explained: Explained) -> None:
    assert explained.card.boxes is None
    assert "box_confidence" not in explained.card.options
    assert len(explained(EXAMPLE)) == 3


CONFIDENCES = {
    "sigmoid": lambda scores: torch.as_tensor(scores).sigmoid().numpy(),
    "none": lambda scores: np.ones_like(scores),
}


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_confidences(confidence: str, small_net: nn.Module) -> None:
    explained = explain(small_net, EXAMPLE, layer=LAYER, boxes=2, box_confidence=confidence)
    scores, *found = explained(images(2, 2, 24, 24), class_ids=torch.tensor([[3, 1]]))
    assert_boxes(found, CONFIDENCES[confidence](scores.detach().numpy()), count=2)


@pytest.mark.parametrize(
    "options",
    [
        {"aug_smooth": True},
        {"pixels": True},
        {"method": "eigencam"},  # the same map for every class
        {"normalize": False, "relu": False},
        {"method": "ablationcam", "chunk": 3},
    ],
    ids=["aug_smooth", "pixels", "eigencam", "raw", "ablationcam"],
)
@pytest.mark.usefixtures("shared_traces")
def test_with_other_options(options: dict[str, Any], small_net: nn.Module) -> None:
    explained = explain(small_net, EXAMPLE, **{"layer": LAYER, "boxes": 2} | options)
    image, ids = images(3, 2, 30, 24), torch.tensor([[4, 1]])
    if "pixels" in options:
        image = (image.permute(0, 2, 3, 1).sigmoid() * 255).to(torch.uint8)
    with torch.no_grad():
        scores, classes, maps, *found = explained(image, class_ids=ids)
    if "normalize" in options:
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        maps = (maps - low) / (high - low + 1e-7)
    assert_boxes([classes, maps, *found], softmax(scores), count=2)


@pytest.mark.slow
def test_in_steps(small_net: nn.Module, tmp_path: Path) -> None:
    """Two loops in one graph, and the state behind the boxes."""
    options: dict[str, Any] = {"layer": "block", "chunk": 3, "stepwise": True, "boxes": 2}
    path = tmp_path / "model.onnx"
    card = save(explain(small_net, EXAMPLE, method="ablationcam", **options), path)
    state = torch.zeros(card.state_shape((2, 3, 26, 24), 1))
    inputs = images(5, 2, 26, 24), torch.tensor([[3]]), torch.arange(card.steps or 0), state
    scores, *found, _ = run_any_file(path, *inputs).values()
    assert_boxes(found, softmax(scores), count=2)


class Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(x), "boxes": x.mean((2, 3))}


def test_a_model_with_boxes_of_its_own(small_net: nn.Module) -> None:
    model = Named(small_net).eval()
    with pytest.raises(ExportError, match=r"called \['boxes'\].*Leave out boxes, or wrap"):
        explain(model, EXAMPLE, boxes=2)
    explained = explain(model, EXAMPLE)
    assert explained.card.own_outputs == ("logits", "boxes")
    assert explained(EXAMPLE).boxes.shape == (1, 3)


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean(2))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"boxes": 0}, "most that each map may have, got 0"),
        ({"boxes": 2, "box_confidence": "maybe"}, "softmax, sigmoid, none, got 'maybe'"),
        ({"boxes": 2, "full_size": False}, "in pixels of the image: leave out full_size"),
    ],
)
def test_boxes_that_cannot_be_had(
    options: dict[str, Any], match: str, small_net: nn.Module
) -> None:
    with pytest.raises(InputError, match=match):
        explain(small_net, EXAMPLE, **options)


def test_series_have_no_boxes() -> None:
    with pytest.raises(
        InputError, match=r"images \(B, C, H, W\), .* \(1, 3, 24\): leave out boxes"
    ):
        explain(build(Series, shape=(3, 24)), torch.zeros(1, 3, 24), boxes=2)


def test_wrong_boxes_are_refused(boxed: Explained, tmp_path: Path) -> None:
    def moved(image: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        *before, boxes, scores = outputs
        return *before, boxes + 1, scores

    with pytest.raises(ProofError, match=r"finds the boxes \[\[.* in \[\["):
        save(tampered(boxed, moved), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
