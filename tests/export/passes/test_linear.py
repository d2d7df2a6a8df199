"""One pass back behind a layer that the rest is linear in gives what many passes give."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from camcore.export import explain
from camcore.export.families import passes
from camcore.export.passes.ablation import AblationBody, LinearAblationBody
from camcore.export.passes.recipro import LinearReciproBody, ReciproBody
from tests.export.affine import AFFINE, EXAMPLE, Net
from tests.export.models import build, images
from tests.export.oracle import TOLERANCE, worst_error

pytestmark = pytest.mark.usefixtures("shared_traces")
BODIES = {
    "ablationcam": (LinearAblationBody, AblationBody),
    "reciprocam": (LinearReciproBody, ReciproBody),
}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("ablationcam", {"ratio": 1.0}),
    ("ablationcam", {"ratio": 0.4}),
    ("reciprocam", {}),
    ("reciprocam", {"gaussian": True}),
]
# Each model with one question in turn, with the others if slow.
QUESTIONS = [
    pytest.param(name, *asked, marks=[] if (n + m) % 4 == 0 else pytest.mark.slow)
    for n, name in enumerate(AFFINE)
    for m, asked in enumerate(ASKED)
]


@cache
def model_of(name: str) -> nn.Module:
    return build(lambda: Net(AFFINE[name]))


@pytest.mark.parametrize(("name", "method", "options"), QUESTIONS)
def test_one_pass_back_gives_what_many_passes_give(
    name: str, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image, ids = model_of(name), images(2, 3, 12, 12), [[1, 3], [2, 0]]
    how: dict[str, Any] = {"method": method, "layer": "conv", **options}
    how |= {"dynamic_size": False, "normalize": False, "relu": False, "full_size": False}
    quick = explain(model, EXAMPLE, **how)
    monkeypatch.setattr(passes, "is_affine", lambda tail: False)
    slow = explain(model, EXAMPLE, **how)
    assert (type(quick.body), type(slow.body)) == BODIES[method]
    class_ids = torch.tensor([*ids, [3, 3]])
    given, expected = (each(image, class_ids).saliency_map.numpy() for each in (quick, slow))
    assert worst_error(given, expected) < TOLERANCE


def test_what_is_explained_must_be_affine_too() -> None:
    """Softmax probabilities are not, nor is anything that is set to another value than 0."""
    model = model_of("a convolution")
    for how in ({"target": "probability"}, {"target": "finer"}, {"value": 1.0}):
        explained = explain(model, EXAMPLE, method="ablationcam", layer="conv", **how)
        assert type(explained.body) is AblationBody
    explained = explain(model, EXAMPLE, method="ablationcam", layer="conv", target="value")
    assert type(explained.body) is LinearAblationBody
