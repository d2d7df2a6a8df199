"""The value that a named module returns, or why it is none to explain."""

from typing import Any

import pytest
from torch import nn

from camcore.errors import ExportError, InputError, UnknownNameError
from camcore.export.cut import cut
from camcore.export.find.modules import find_activation, name_layers
from camcore.export.trace.trace import trace
from tests.export.models import EXAMPLE, REASONS, Pyramid, build, images


@pytest.fixture(scope="module")
def pyramid() -> nn.Module:
    return build(Pyramid)


def names_found(model: nn.Module, layer: str) -> Any:
    return find_activation(trace(model, EXAMPLE), layer)


def test_a_module_called_twice_is_explained_at_its_last_call(small_net: nn.Module) -> None:
    """`block.relu` is called twice; the second call ends the block."""
    traced = trace(small_net, EXAMPLE)
    assert find_activation(traced, "block.relu") is find_activation(traced, "block")


def test_unknown_names_are_answered_with_the_nearest(small_net: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown layer 'block.conv'; nearest: block\.conv"):
        name_layers(small_net, "block.conv")
    assert name_layers(small_net, "block.conv1") == ("block.conv1",)


def test_layers_are_given_as_modules_too(small_net: nn.Module) -> None:
    block = small_net.get_submodule("block")
    assert name_layers(small_net, None) == ()
    assert name_layers(small_net, block) == ("block",)
    assert name_layers(small_net, [block, "block.conv1"]) == ("block", "block.conv1")
    features = nn.Sequential(block)  # a sequence of modules is one layer
    assert name_layers(nn.Sequential(features), features) == ("0",)


@pytest.mark.parametrize("layer", [nn.ReLU(), 3, [["block"]]])
def test_what_is_no_layer_is_refused(small_net: nn.Module, layer: Any) -> None:
    with pytest.raises(InputError, match="none of the modules inside this model; expected one"):
        name_layers(small_net, layer)


@pytest.mark.parametrize("layer", REASONS)
def test_reasons(layer: str, pyramid: nn.Module) -> None:
    with pytest.raises(ExportError, match=f"'{layer}' cannot be explained: .*{REASONS[layer]}"):
        names_found(pyramid, layer)


def test_the_activation_is_what_the_module_returned_before_work_in_place(
    small_net: nn.Module,
) -> None:
    """`stem.1` returns values of both signs, on which `stem.2` then works in place."""
    traced = trace(small_net, EXAMPLE)
    activation = find_activation(traced, "stem.1")
    (value,) = cut(traced.graph, at=[activation], kept=[activation]).head(images(1, 2, 24, 24))
    assert value.min() < 0 < value.max()
