"""What a caller hands over: completed, or told what is wrong with it."""

from typing import Any

import pytest
import torch
from torch import nn

from camcore.card import ImageSpec
from camcore.errors import InputError, UnknownNameError
from camcore.export.given import (
    EXAMPLE_QUERIES,
    as_inputs,
    assumed,
    check_class_ids,
    check_class_names,
    check_pixels,
    check_queries,
    of_frames,
    with_queries,
)
from camcore.export.trace.subject import Subject
from camcore.export.trace.targets import get_target

IMAGE = torch.zeros(2, 3, 8, 10)
EMBEDS = nn.Sequential(nn.Flatten(), nn.Linear(240, 7)).eval()


def test_inputs() -> None:
    (image,) = as_inputs(IMAGE)
    assert image is IMAGE
    given = (IMAGE, IMAGE[0])
    assert as_inputs(given) is given


@pytest.mark.parametrize("given", [(), [IMAGE], None, (IMAGE, 3), IMAGE[0, 0, 0]])
def test_no_inputs(given: Any) -> None:
    with pytest.raises(InputError, match=r"expected images \(B, C, H, W\)"):
        as_inputs(given)


def test_frames_stand_behind_the_channels() -> None:
    video = torch.rand(1, 4, 3, 8, 10)
    (found,) = of_frames(nn.Flatten().eval(), (video,))
    assert torch.equal(found, video.transpose(1, 2))
    with pytest.raises(InputError, match=r"the example is of shape \(2, 3, 8, 10\)"):
        of_frames(nn.Flatten().eval(), (IMAGE,))


def test_what_is_assumed_of_images() -> None:
    spec = assumed(IMAGE, False)
    assert spec.resize == (8, 10)
    assert {"mean", "std", "resize"} <= set(spec.assumed)
    assert assumed(torch.zeros(1, 3, 4, 8, 10), True) == spec
    assert assumed(torch.zeros(1, 3, 4, 8, 10), False) == ImageSpec(None, None)


def test_class_names() -> None:
    check_class_names(None, 3)
    check_class_names(["a", "b"], 2)
    with pytest.raises(InputError, match="2 class names were given for a model of 3 classes"):
        check_class_names(["a", "b"], 3)


def test_how_classes_are_chosen() -> None:
    check_class_ids("best", 2)
    with pytest.raises(UnknownNameError, match="choice of class_ids 'bets'"):
        check_class_ids("bets", None)
    with pytest.raises(InputError, match="top=2 is for class_ids='best', got 'required'"):
        check_class_ids("required", 2)
    with pytest.raises(InputError, match="1 or more, got 0"):
        check_class_ids("best", 0)


def test_queries() -> None:
    subject = Subject(EMBEDS, get_target("similarity"), None)
    image, queries = with_queries(subject, (IMAGE,))
    assert image is IMAGE
    assert queries.shape == (2, EXAMPLE_QUERIES, 7)
    assert len(with_queries(Subject(EMBEDS, get_target("logit"), None), (IMAGE,))) == 1
    with pytest.raises(InputError, match="class_ids='all' and the target 'similarity'"):
        check_queries(subject, "all", None)
    with pytest.raises(InputError, match="no classes but its queries"):
        check_queries(subject, "required", ["a"])


def test_pixels_want_a_mean_for_each_channel() -> None:
    spec = ImageSpec(None, None)
    assert check_pixels(spec, IMAGE) is spec
    with pytest.raises(InputError, match="images of 4 channels want a mean"):
        check_pixels(spec, torch.zeros(1, 4, 8, 8))
