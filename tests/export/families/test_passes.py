"""Methods of many passes: which body takes them, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError, InputError, UnknownNameError
from camcore.export import explain
from camcore.export.families import family_of
from camcore.export.passes.ablation import AblationBody, LinearAblationBody
from camcore.export.passes.recipro import LinearReciproBody, ReciproBody
from camcore.methods import METHODS
from tests.export.models import (
    EXAMPLE,
    Classifier,
    SmallNet,
    build,
    images,
)
from tests.export.passing import CASES, OPTIONS, LastNet

pytestmark = pytest.mark.usefixtures("shared_traces")


def test_no_method_is_left_out() -> None:
    assert set(OPTIONS) == {m.name for m in METHODS.values() if family_of(m).many_passes}


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [
        ("gradcam", {"layer": "mix"}, "gradcam takes no many passes"),
        ("rise", {"aug_smooth": True}, "stepwise and aug_smooth do not go together"),
    ],
)
def test_what_has_no_steps(method: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(build(LastNet), images(0, 1, 24, 24), method=method, stepwise=True, **how)


@pytest.mark.parametrize("method", ["ablationcam", "reciprocam"])
def test_a_linear_tail_has_no_steps(method: str, models: dict[str, nn.Module]) -> None:
    with pytest.raises(InputError, match=r"one pass tells all .*, leave out stepwise"):
        CASES["affine"].explain(models["affine"], method, stepwise=True)


class Stateful(nn.Module):
    """Its own output has a name that a file in steps gives to another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallNet()

    def forward(self, x: Tensor) -> Any:
        return {"scores": self.inner(x), "state": x.mean((2, 3))}


def test_a_model_with_a_state_of_its_own() -> None:
    model, example = build(Stateful), images(0, 1, 24, 24)
    how: dict[str, Any] = {"method": "rise", "n_masks": 4}
    assert explain(model, example, **how).card.outputs[:2] == ("scores", "state")
    with pytest.raises(ExportError, match=r"outputs called \['state'\].*Leave out stepwise"):
        explain(model, example, stepwise=True, **how)


@pytest.mark.parametrize(("name", "target", "bodies"), [
    ("affine", "logit", (LinearAblationBody, LinearReciproBody)),
    ("affine", "probability", (AblationBody, ReciproBody)),
    ("affine", "finer", (AblationBody, ReciproBody)),
    ("skip", "logit", (AblationBody, ReciproBody)),
])  # fmt: skip
def test_one_pass_back_where_the_rest_is_affine(
    name: str, target: str, bodies: tuple[type, type], models: dict[str, nn.Module]
) -> None:
    methods = ("ablationcam", "reciprocam")
    made = [CASES[name].explain(models[name], method, target=target) for method in methods]
    assert tuple(type(explained.body) for explained in made) == bodies


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "rise", "layer": "top"}, "rise takes no layer, for it masks the image; got"),
        (
            {"method": "scorecam", "layer": ["top", "stem"], "stepwise": True},
            "the passes of one layer in steps, got top, stem",
        ),
        ({"method": "scorecam", "chunk": 0}, "expects chunk to be a whole number above 0, got 0"),
        ({"method": "ablationcam", "chunk": 1.5}, "expects chunk .* got 1.5"),
        ({"method": "scorecam", "channels": 0}, "expects channels .* got 0"),
        ({"method": "scorecam", "channels": -1}, "expects channels .* got -1"),
        ({"method": "scorecam", "channels": True}, "expects channels .* got True"),
        ({"method": "sscam", "samples": 0}, "expects samples .* got 0"),
        ({"method": "rise", "n_masks": 0}, "expects n_masks .* got 0"),
        ({"method": "rise", "cells": 0}, "expects cells .* got 0"),
        ({"method": "rise", "probability": 0.0}, "a probability above 0 and at most 1, got 0.0"),
        ({"method": "ablationcam", "ratio": 0}, "a ratio above 0 and at most 1, got 0"),
        ({"method": "ablationcam", "ratio": 1.2}, "a ratio above 0 and at most 1, got 1.2"),
        ({"method": "scorecam", "layer": "top", "channels": 13}, "with 13 channels.* has 12"),
        ({"method": "reciprocam", "eigen_smooth": True}, "reciprocam is not"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], match: str, models: dict[str, nn.Module]
) -> None:
    with pytest.raises(InputError, match=match):
        explain(models["skip"], EXAMPLE, **options)


def test_layers_that_a_method_is_not_made_for_are_refused(models: dict[str, nn.Module]) -> None:
    with pytest.raises(ExportError, match=r"'top' returns none: choose reciprocam, with gaussian"):
        explain(models["skip"], EXAMPLE, method="vit-reciprocam", layer="top")
    line = build(lambda: Classifier(nn.Conv1d(3, 4, 3), 4), shape=(3, 24))
    with pytest.raises(ExportError, match=r"rise masks images \(B, C, H, W\), got 1 axes of space"):
        explain(line, torch.zeros(1, 3, 24), method="rise")


def test_unknown_options_are_refused(models: dict[str, nn.Module]) -> None:
    with pytest.raises(UnknownNameError, match="option of ablationcam 'rato'; nearest: ratio"):
        explain(models["skip"], EXAMPLE, method="ablationcam", rato=1)
