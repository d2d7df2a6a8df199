"""The page's modules in Node: the card, the scores of classes, and what is shown of outputs."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from camcore.adapters.files import read_card
from camcore.adapters.runner import class_probabilities, class_scores
from camcore.card import Card
from tests.adapters.serving.page_parts import in_node, needs_node
from tests.adapters.toy import CARD

pytestmark = needs_node

_READ = """
const { readCard } = await page("card.mjs");
answer(given.map((path) => {
  try { return readCard(new Uint8Array(readFileSync(path))); }
  catch (error) { return error.message; }
}));
"""


def test_the_card_is_read_from_the_bytes(toy_folder: Path, spots: Path, tmp_path: Path) -> None:
    cut, foreign = tmp_path / "cut.onnx", tmp_path / "foreign.onnx"
    content = spots.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    foreign.write_bytes(b"")
    toy = toy_folder / "toy.onnx"
    *cards, broken, none = in_node(_READ, [str(path) for path in (toy, spots, cut, foreign)])
    assert cards == [json.loads(read_card(path).to_json()) for path in (toy, spots)]
    assert "truncated" in broken
    assert "no camcore card" in none


def scored(card: Card, scores: list[float]) -> dict[str, Any]:
    """A card and outputs as the page has them, and what the runner makes of those."""
    outputs = {"scores": np.array([scores], np.float32), "classes": np.array([[0]])}
    found = class_scores(card, outputs)
    probabilities = None if found is None else class_probabilities(card, found)
    return {
        "card": json.loads(json.dumps(asdict(card))),
        "outputs": {
            name: {"data": values.ravel().tolist(), "dims": values.shape}
            for name, values in outputs.items()
        },
        "scores": None if found is None else found[0].tolist(),
        "probabilities": None if probabilities is None else probabilities[0].tolist(),
    }


def test_scores_and_probabilities_are_those_of_the_runner() -> None:
    four, one = [1.5, -2.0, 0.25, 90.0], [0.75]
    with_target = {
        target: replace(CARD, options={"target": target})
        for target in ("logit", "finer", "value", "segmentation")
    }
    cases = [scored(card, four) for card in with_target.values()]
    cases += [
        scored(replace(CARD, probabilities=kind), four)
        for kind in ("softmax", "sigmoid", "scores", "none")
    ]
    cases.append(scored(replace(CARD, num_classes=2, options={"target": "binary"}), one))
    cases.append(scored(replace(CARD, num_classes=1), one))
    code = """
    const { classScores, classProbabilities } = await page("explain.mjs");
    answer(given.map(({ card, outputs }) => {
      const scores = classScores(card, outputs);
      return { scores, probabilities: scores && classProbabilities(card, scores) };
    }));
    """
    for found, case in zip(in_node(code, cases), cases, strict=True):
        for name in ("scores", "probabilities"):
            assert (found[name] is None) == (case[name] is None)
            if case[name] is not None:
                np.testing.assert_allclose(found[name], case[name], rtol=1e-6, atol=1e-9)


def test_maps_and_boxes_of_classes_and_of_detections() -> None:
    card = asdict(replace(CARD, boxes=2, options={"normalize": False}))
    detector = asdict(replace(CARD, outputs=("boxes", "labels", "scores", "detection_maps")))
    code = """
    const { explained } = await page("explain.mjs");
    const port = (data, ...dims) => ({ data: Float32Array.from(data), dims });
    const classes = {
      scores: port([1, 2, 3, 4], 1, 4),
      classes: port([3, 1], 1, 2),
      saliency_map: port([0, 2, 4, 4, 1, 1, 1, 1], 1, 2, 2, 2),
      boxes: port([0, 0, 1, 2, -1, -1, -1, -1, 0, 0, 2, 2, 1, 1, 2, 2], 1, 2, 2, 4),
    };
    const detections = {
      boxes: port([0, 0, 1, 2, 1, 1, 2, 2], 2, 4),
      labels: port([5, 6], 2),
      scores: port([0.5, 0.25], 2),
      detection_maps: port([0.25, 1, 0, 0], 1, 2, 2),
    };
    const plain = (each) => ({ ...each, values: Array.from(each.values) });
    const [card, detector] = given;
    const both = [explained(card, classes), explained(detector, detections)];
    answer(both.map((all) => all.map(plain)));
    """
    (third, first), (detection,) = in_node(code, [card, detector])
    assert [third["index"], third["score"], first["index"], first["score"]] == [3, 4, 1, 2]
    assert third["values"] == [0, 0.5, 1, 1]
    assert first["values"] == [0, 0, 0, 0]
    assert third["boxes"] == [[0, 0, 1, 2]]
    assert first["boxes"] == [[0, 0, 2, 2], [1, 1, 2, 2]]
    assert detection == {
        "index": 5,
        "score": 0.5,
        "values": [0.25, 1, 0, 0],
        "width": 2,
        "height": 2,
        "boxes": [[0, 0, 1, 2]],
    }
