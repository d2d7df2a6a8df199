import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from camcore.adapters.demo import CLASS_NAMES, DETECTOR_NAMES, load_scene_net
from camcore.adapters.demo.detectors import (
    DETECTORS,
    LABEL_NAMES,
    load_scene_detector,
    own_state,
)
from camcore.adapters.demo.scenes import make_scene
from camcore.adapters.demo.train_detectors import as_image, evaluate
from camcore.errors import FileError

SHIPPED = files("camcore.adapters.demo")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHIPPED / "scene_detectors.json").read_text("utf-8"))
    return found


def test_the_weights_are_small_and_as_the_report_says(report: dict[str, Any]) -> None:
    sizes = {name: len((SHIPPED / f"scene_{name}.safetensors").read_bytes()) for name in DETECTORS}
    assert sizes == {name: report[name]["bytes"] for name in DETECTOR_NAMES}
    assert sum(sizes.values()) < 3_000_000


@pytest.mark.parametrize("name", DETECTOR_NAMES)
def test_fresh_scenes_are_found_as_reported(name: str, report: dict[str, Any]) -> None:
    scenes = [make_scene(np.random.default_rng([304, i])) for i in range(40)]
    fresh, stated = evaluate(load_scene_detector(name), scenes), report[name]["held_out_scenes"]
    assert stated["scenes"] == 500
    for figure in ("found", "right"):
        share = stated[figure]
        allowed = 4 * np.sqrt(share * (1 - share) / fresh["objects"]) + 0.02
        assert abs(fresh[figure] - share) < allowed, figure


def test_two_of_one_class_are_two_detections() -> None:
    scene = make_scene(np.random.default_rng([77, 3]), labels=[4, 4, 1])
    (found,) = load_scene_detector("retinanet")([as_image(scene)])
    names = [LABEL_NAMES[label] for label in found["labels"]]
    assert sorted(names) == ["ring", "star", "star"]
    assert LABEL_NAMES[1:] == CLASS_NAMES


def test_the_classifier_in_it_is_the_shipped_one() -> None:
    detector = load_scene_detector("ssdlite")
    assert not [name for name in own_state(detector) if "body" in name]
    body: Any = detector.get_submodule("backbone.body")
    for own, shipped in zip(body.parameters(), load_scene_net().parameters(), strict=True):
        assert torch.equal(own, shipped)


def test_weights_of_another_detector(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"nothing": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="holds other weights than ssdlite has"):
        load_scene_detector("ssdlite", path)
