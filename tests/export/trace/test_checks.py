"""What is wrong with a model or an example is told before anything is traced."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import InputError
from camcore.export.trace.trace import trace
from tests.export.models import SmallNet, build


def test_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"training mode \(the model itself, .*model\.eval\(\)"):
        trace(SmallNet().train(), torch.zeros(1, 3, 24, 24))


def test_one_layer_in_training_mode_is_refused_by_name() -> None:
    model = build(SmallNet)
    model.get_submodule("block.norm1").train()
    with pytest.raises(InputError, match=r"training mode \(block\.norm1\)"):
        trace(model, torch.zeros(1, 3, 24, 24))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda model: model.forward, "the model is method, expected a torch.nn.Module"),
        (lambda model: torch.jit.trace(model, torch.zeros(1, 3, 24, 24)), "not scripted"),
        (torch.compile, r"compiled; give the one inside, model\._orig_mod"),
        (lambda model: deepcopy(model).to("meta"), "'.*' is on the meta device"),
    ],
)
def test_what_is_no_plain_module_is_refused(
    make: Callable[[nn.Module], Any], told: str, small_net: nn.Module
) -> None:
    with pytest.raises(InputError, match=told):
        trace(make(small_net), torch.zeros(1, 3, 24, 24))


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model = build(SmallNet)
    with pytest.raises(InputError, match=r"'.*weight' was made under.*copy\.deepcopy\(model\)"):
        trace(model, torch.zeros(1, 3, 24, 24))
    trace(deepcopy(model), torch.zeros(1, 3, 24, 24), dynamic_size=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["block.conv2.weight", "block.norm1.running_mean"])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float, name: str) -> None:
    model = build(SmallNet)
    model.state_dict()[name].view(-1)[3] = bad
    with pytest.raises(InputError, match=name):
        trace(model, torch.zeros(1, 3, 24, 24))


@pytest.mark.parametrize(
    "example",
    [torch.zeros(3, 24), torch.zeros(1, 3, 24, 24, dtype=torch.uint8), torch.zeros(0, 3, 24, 24)],
)
def test_an_example_that_is_no_batch_of_images(small_net: nn.Module, example: Tensor) -> None:
    with pytest.raises(InputError, match="expected a batch of images"):
        trace(small_net, example)


def test_an_example_with_too_few_channels(small_net: nn.Module) -> None:
    with pytest.raises(InputError, match=r"the example, of shape \(1, 1, 24, 24\).*3 channels"):
        trace(small_net, torch.zeros(1, 1, 24, 24))
