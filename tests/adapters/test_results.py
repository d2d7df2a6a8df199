from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcore.adapters import Explanation
from camcore.adapters.images import Placement, prepare, read_image
from camcore.adapters.results import concept_text, for_show, image_record, maps_of, picture
from camcore.card import Card, ImageSpec
from tests.adapters.toy import CARD


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_map_that_is_zero_has_no_peak(photo: Path) -> None:
    scores, classes = np.array([[1.0, 2.0, 0.0, 0.0]]), np.array([[1]])
    maps = {"scores": scores, "classes": classes, "saliency_map": np.zeros((1, 1, 4, 4))}
    explanation = Explanation(maps)
    _, placement = prepare(read_image(photo), CARD.image)
    result = image_record(photo, explanation, placement, CARD, 3)
    (explained,) = result["explained"]
    assert explained.pop("probability") == pytest.approx(np.e**2 / (np.e + np.e**2 + 2))
    expected = {"class": 1, "name": "dog", "score": 2.0, "peak": None, "map": None}
    assert explained == expected


def test_peak_of_a_map_as_the_method_gives_it(photo: Path) -> None:
    """Below zero everywhere, and highest in the last corner."""
    raw = np.linspace(-3, 5, 12, dtype=np.float32).reshape(3, 4)
    card = replace(CARD, options={"normalize": False})
    explanation = Explanation(
        {
            "scores": np.zeros((1, 4)),
            "classes": np.array([[1]]),
            "saliency_map": raw[None, None] - 9,
        }
    )
    _, placement = prepare(read_image(photo), CARD.image)
    (explained,) = image_record(photo, explanation, placement, card, 3)["explained"]
    x, y = placement.points_to_original(np.array([3.5, 2.5]), (3, 4))
    assert explained["peak"] == {"x": pytest.approx(x, abs=0.06), "y": pytest.approx(y, abs=0.06)}


def test_overlay_of_maps_as_the_method_gives_them() -> None:
    """Whatever their values, the colours show all of them; in [0, 1] already, none is changed."""
    raw = np.linspace(-3, 5, 12, dtype=np.float32).reshape(3, 4)
    card = replace(CARD, options={"normalize": False})
    np.testing.assert_allclose(for_show(raw, card), (raw + 3) / 8, atol=1e-6)
    assert for_show(raw, CARD) is raw


def test_boxes_in_the_pixels_of_the_image(photo: Path) -> None:
    """Without padding, and without what lies in the black margin of a crop."""
    padding = [-1.0] * 4
    explanation = Explanation(
        {
            "scores": np.zeros((1, 4)),
            "classes": np.array([[1, 3]]),
            "saliency_map": np.zeros((1, 2, 10, 20)),
            "boxes": np.array([[[[4.0, 1, 20, 9], [0, 0, 2, 10], padding], [padding] * 3]]),
            "box_scores": np.array([[[0.75, 0.5, 0], [0, 0, 0]]], dtype=np.float32),
        }
    )
    placement = Placement(-10, 0, 90, 50, height=50, width=80)
    first, second = image_record(photo, explanation, placement, CARD, 3)["explained"]
    assert first["boxes"] == [{"box": [10.0, 5.0, 80.0, 45.0], "score": 0.75}]
    assert second["boxes"] == []


def with_concepts(**scores: np.ndarray) -> Explanation[np.ndarray]:
    """One class and two concepts, the second one highest in the last corner."""
    maps = np.zeros((1, 2, 10, 10), np.float32)
    maps[0, 1, 9, 9] = 1
    given = {"scores": np.zeros((1, 4)), "classes": np.array([[1]])}
    return Explanation({**given, "saliency_map": maps[:, 1:], "concept_maps": maps, **scores})


def test_concepts_and_what_they_add(photo: Path) -> None:
    added = np.array([[[0, -1, 2, 0.5], [3, 0, 0, 4]]], np.float32)
    placement = Placement(0, 0, 60, 50, height=50, width=60)
    record = image_record(photo, with_concepts(concept_scores=added), placement, CARD, 3)
    first, second = record["concepts"]
    assert (first["concept"], first["peak"], second["peak"]) == (0, None, {"x": 57.0, "y": 47.5})
    assert [(each["name"], each["score"]) for each in second["adds"]] == [
        ("42", 4.0),
        ("cat", 3.0),
        ("dog", 0.0),
    ]
    assert concept_text(first) == "concept 0: boxer +2.00"
    record = image_record(photo, with_concepts(), placement, CARD, 3)
    assert concept_text(record["concepts"][1]) == "concept 1"


def test_concepts_are_drawn_behind_the_classes(photo: Path) -> None:
    """A panel for each, with its own map."""
    placement = Placement(0, 0, 60, 50, height=50, width=60)
    image, given = read_image(photo), with_concepts()
    record = image_record(photo, given, placement, CARD, 3)
    explained, concepts = record["explained"], record["concepts"]
    drawn = [
        picture(image, given, placement, CARD, explained, concepts[:count]) for count in range(3)
    ]
    one, gap = drawn[0].shape[1], (drawn[1].shape[1] - 2 * drawn[0].shape[1])
    assert [each.shape[1] for each in drawn] == [one, 2 * one + gap, 3 * one + 2 * gap]
    below = slice(-50, None)  # the captions
    panels = [drawn[2][below, n * (one + gap) :][:, :one] for n in range(3)]
    np.testing.assert_array_equal(panels[0], panels[2])
    assert (panels[0] != panels[1]).any()


def whole_image() -> tuple[Explanation, Placement, Card]:
    """What a detector that explains the image as a whole found in one of 320 x 480: two boxes."""
    rising = np.linspace(0, 1, 320 * 480, dtype=np.float32).reshape(1, 1, 320, 480)
    explanation = Explanation(
        {
            "boxes": np.array([[0, 0, 160, 160], [240, 80, 440, 320]], np.float32),
            "labels": np.array([1, 3]),
            "scores": np.array([0.9, 0.6], np.float32),
            "saliency_map": rising,
        }
    )
    image = ImageSpec(320, 480)
    names = ("boxes", "labels", "scores", "saliency_map")
    card = replace(CARD, image=image, outputs=names, inputs=("image",), class_ids="best")
    _, placement = prepare(np.zeros((320, 480, 3), np.uint8), image)
    return explanation, placement, card


def test_detections_that_share_a_map() -> None:
    explanation, placement, card = whole_image()
    assert maps_of(explanation).shape == (2, 320, 480)
    found = image_record("scene.png", explanation, placement, card, 5)["explained"]
    assert [each["class"] for each in found] == [1, 3]
    assert found[0]["peak"] == found[1]["peak"] == {"x": 479.5, "y": 319.5}


def test_one_picture_with_maps_stretched_in_their_boxes() -> None:
    explanation, placement, card = whole_image()
    found = image_record("scene.png", explanation, placement, card, 5)["explained"]
    grey = np.full((320, 480, 3), 100, np.uint8)
    looks = {"colormap": "bone", "opacity": 1.0}  # black at 0, white at 1
    whole = picture(grey, explanation, placement, card, found, **looks)[-320:]
    inside = picture(grey, explanation, placement, card, found, in_boxes=True, **looks)[-320:]
    assert whole.shape == inside.shape == (320, 480, 3)
    assert inside[:60, 200:].max() == 0 < whole[:60, 200:].max()
    # A third of the way down, and near the upper edge of the second box.
    assert inside[100, 340].max() < whole[100, 340].min()
    # Of a detector with a map of each, as well.
    own = {**explanation, "detection_maps": maps_of(explanation)}
    del own["saliency_map"]
    each = replace(card, outputs=(*card.outputs[:3], "detection_maps"))
    again = picture(grey, Explanation(own), placement, each, found, in_boxes=True, **looks)[-320:]
    np.testing.assert_array_equal(again, inside)
