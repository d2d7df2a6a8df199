"""Reruns leave the user's detector as it is, and change the channel that they are asked to."""

from typing import Any

import torch

from camcore.export.prove.reruns import _without
from tests.export.detectors.nets import image, ssd


def test_one_channel_of_all_levels_counted_through() -> None:
    detector: Any = ssd()
    with torch.no_grad():
        before = list(detector.backbone(image(1)).values())
        with _without(detector, ["backbone"], 8 + 3, -5.0):
            changed = list(detector.backbone(image(1)).values())
        with _without(detector, ["backbone"], -1, -5.0):
            same = list(detector.backbone(image(1)).values())
        after = list(detector.backbone(image(1)).values())
    assert all(torch.equal(a, b) for a, b in zip(before, same, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    differs = [(a != b).flatten(2).any(2)[0] for a, b in zip(before, changed, strict=True)]
    assert [each.nonzero().flatten().tolist() for each in differs] == [[], [3], []]
    assert bool((changed[1][0, 3] == -5).all())
