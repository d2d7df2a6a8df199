"""Written detectors on painted scenes: what they find in a hundred, their maps in ten of them.

Those that come with camcore, and torchvision's of random weights.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.detector_subjects import make_subject
from camcore.adapters.demo.detectors import load_scene_detector
from camcore.adapters.demo.scenes import make_scene
from camcore.export import explain, save
from camcore.export.detectors.whole import Whole
from camcore.export.prove.detected import Detected
from camcore.export.prove.detections import allowed_errors, error_of, same_detections
from camcore.export.prove.prove import TOLERANCE, copied, results_of
from camcore.export.prove.runtimes import load

pytestmark = pytest.mark.slow

SCENES, WITH_MAPS, TOP = 100, 10, 5

# The shipped detectors resize and pad their scenes, the others pad theirs.
SIZE, LARGER = (112, 150), (144, 192)


def scenes(size: tuple[int, int]) -> Iterator[Tensor]:
    """Images (1, 3, H, W) in [0, 1] of one to three objects, always the same."""
    generator = np.random.default_rng(20)
    while True:
        pixels = torch.from_numpy(make_scene(generator, size=size).image)
        yield pixels.permute(2, 0, 1)[None].contiguous() / 255


def shipped(name: str) -> tuple[nn.Module, tuple[int, int]]:
    return load_scene_detector(name), SIZE


def untrained(name: str) -> tuple[nn.Module, tuple[int, int]]:
    return make_subject(name, next(scenes(LARGER)), 20).detector, LARGER


@pytest.mark.parametrize(
    ("make", "name", "method"),
    [
        (shipped, "retinanet", "hirescam"),
        (shipped, "faster_rcnn", "gradcam"),
        (shipped, "ssdlite", "layercam"),
        (untrained, "fasterrcnn_mobilenet_v3_large_320_fpn", "gradcam"),
        (untrained, "retinanet_resnet50_fpn", "hirescam"),
    ],
)
def test_what_is_found_in_scenes_and_why(
    make: Callable[[str], tuple[nn.Module, tuple[int, int]]],
    name: str,
    method: str,
    tmp_path: Path,
) -> None:
    detector, size = make(name)
    pictures = scenes(size)
    explained = explain(detector, next(pictures), method=method, top=TOP)
    save(explained, tmp_path / "found.onnx")
    runtime, run = load(tmp_path / "found.onnx", explained.card)
    doubled = Whole(copied(explained.request.subject).double().user_model, None)
    count, errors = 0, list[float]()
    for number, image in enumerate(islice(pictures, SCENES)):
        *given, maps = results_of(runtime, run, [image], None)
        eager = Detected.of(explained.request, explained.found, image)
        allowed = allowed_errors(doubled, image, eager.found)
        places = same_detections(given, eager.found, allowed, runtime)
        assert maps.shape == (min(TOP, len(places)), *size)
        count += len(places)
        if number < WITH_MAPS:
            for own, place in zip(maps, places[:TOP], strict=False):
                error = error_of(own, eager, place, runtime)
                assert error is not None
                errors.append(error)
    assert count > SCENES
    # Some are further off, by no more than a rounding error of the image moves them.
    assert len(errors) > WITH_MAPS
    assert np.median(errors) < TOLERANCE
