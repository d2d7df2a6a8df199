"""A detector as a graph finds what it finds eagerly, in images that it never saw."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.fx.graph import CodeGen
from torchvision.models import resnet18

from camcore.errors import ExportError, InputError
from camcore.export.detectors.whole import Whole, is_detector, trace_detector
from tests.export.detectors.nets import DETECTORS, SIZE, image, retinanet, ssd
from tests.export.oracle import first_fast


@pytest.mark.parametrize("name", first_fast(DETECTORS))
def test_what_is_found(name: str) -> None:
    model = DETECTORS[name]()
    graph = trace_detector(model, image(0)).graph
    graph.graph.set_codegen(CodeGen())
    graph.recompile()
    counts = set()
    for seed, size in ((1, SIZE), (2, (77, 61))):
        (found,) = model([image(seed, size)[0]])
        with torch.no_grad():
            boxes, labels, scores = graph(image(seed, size))
        torch.testing.assert_close(boxes, found["boxes"].detach(), rtol=0, atol=1e-4)
        assert torch.equal(labels, found["labels"])
        torch.testing.assert_close(scores, found["scores"].detach(), rtol=0, atol=1e-6)
        counts.add(tuple(scores.tolist()))
    assert len(counts) == 2


def test_what_is_a_detector() -> None:
    assert is_detector(ssd())
    assert not is_detector(resnet18())


def test_a_detector_that_cannot_be_traced() -> None:
    class Odd(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2 if bool((x > 0.5).any()) else x

    model: Any = retinanet()
    model.backbone.blocks[0].append(Odd())
    with pytest.raises(ExportError, match=r"cannot trace the detector"):
        trace_detector(model.eval(), image(0))


def test_training_mode() -> None:
    with pytest.raises(InputError, match="training mode"):
        trace_detector(ssd().train(), image(0))


def test_the_wrapper_is_not_in_training_mode() -> None:
    assert not Whole(ssd(), None).training
