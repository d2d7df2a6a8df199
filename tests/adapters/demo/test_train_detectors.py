from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camcore.adapters.demo.scenes import make_scene
from camcore.adapters.demo.train import TRAINING_PHOTOGRAPHS, load_photographs
from camcore.adapters.demo.train_detectors import (
    Settings,
    as_image,
    as_target,
    batch_of,
    evaluate,
    train,
)


def test_a_target_is_what_torchvision_learns_from() -> None:
    scene = make_scene(np.random.default_rng(0), labels=[2, 7])
    target = as_target(scene)
    assert target["labels"].tolist() == [3, 8]
    assert target["boxes"].tolist() == scene.boxes.tolist()
    assert as_image(scene).shape == (3, 128, 128)
    assert 0 <= as_image(scene).min() < as_image(scene).max() <= 1


def test_no_scene_is_seen_twice() -> None:
    settings, photographs = Settings(batch=2), load_photographs(TRAINING_PHOTOGRAPHS)
    first, again, next_ = (batch_of(settings, step, photographs) for step in (0, 0, 1))
    np.testing.assert_array_equal(first[0].image, again[0].image)
    assert not np.array_equal(first[0].image, next_[0].image)
    assert not np.array_equal(first[0].image, first[1].image)


class Told(nn.Module):
    """Finds what it was told: the objects, shifted, in turn."""

    def __init__(self, found: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.found = iter(found)

    def forward(self, images: list[Tensor]) -> Any:
        return [next(self.found)]


def test_found_and_right_by_hand() -> None:
    scenes = [make_scene(np.random.default_rng(i), labels=[1, 4]) for i in range(2)]
    first, second = map(as_target, scenes)
    missed = {name: value[:1] for name, value in second.items()}
    wrong = {"boxes": first["boxes"], "labels": first["labels"].flip(0)}
    assert evaluate(Told([first, missed]), scenes) == {
        "scenes": 2,
        "objects": 4,
        "found": 0.75,
        "right": 1.0,
    }
    assert evaluate(Told([wrong, missed]), scenes)["right"] == 0.3333


def test_training_goes_on_where_it_stood(tmp_path: Path) -> None:
    """A step behind a checkpoint's last one, with the same schedule."""
    checkpoint = tmp_path / "kept.pt"
    torch.set_num_threads(1)
    trained = train("ssdlite", Settings(steps=2, batch=2), checkpoint, every=1)
    kept = torch.load(checkpoint, weights_only=True)
    assert kept["step"] == 2
    again = train("ssdlite", Settings(steps=2, batch=2), checkpoint, every=1)
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name])
