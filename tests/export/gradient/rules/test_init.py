"""The table of rules: each of its own has a case, and the others are PyTorch's."""

import pytest
import torch
from torch.nn import functional as F

from camcore.export.gradient.rules import _own_rules
from tests.export.gradient.rules import (
    test_clamps,
    test_convolutions,
    test_moves,
    test_norms,
    test_pools,
)
from tests.export.rule_cases import (
    SCALE,
    SHIFT,
    TWO,
    assert_rules_give_the_gradient,
    gradient,
    random,
    traced,
)

# A sample of the rules from PyTorch's own table.
PYTORCH_CASES = {
    "reflection_pad2d_backward": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "silu_backward": F.silu,
    "gelu_backward": F.gelu,
    "hardswish_backward": F.hardswish,
    "hardsigmoid_backward": F.hardsigmoid,
    "sigmoid_backward": torch.sigmoid,
    "leaky_relu_backward": F.leaky_relu,
    "elu_backward": F.elu,
    "native_layer_norm_backward": lambda x: F.layer_norm(x, [4], SCALE, SHIFT),
    "native_group_norm_backward": lambda x: F.group_norm(x, 2, SCALE, SHIFT),
    "_softmax_backward_data": lambda x: F.softmax(x, 2),
    "_log_softmax_backward_data": lambda x: F.log_softmax(x, 1),
}


@pytest.mark.parametrize("operator", PYTORCH_CASES)
def test_pytorch_rules(operator: str) -> None:
    forward = PYTORCH_CASES[operator]
    if operator == "native_layer_norm_backward":
        shape, other = (2, 5, 7, 4), (3, 8, 6, 4)
    else:
        shape, other = TWO[:2]
    # PyTorch's rule of hardsigmoid takes 1 / 6 in single precision.
    assert operator in assert_rules_give_the_gradient(forward, random(*shape), atol=1e-8).used
    x = random(*other, seed=1)
    graph = traced(forward, random(*shape))
    torch.testing.assert_close(graph(x), gradient(forward, x), rtol=1e-7, atol=1e-8)


def test_every_own_rule_has_a_case() -> None:
    topics = (test_clamps, test_convolutions, test_moves, test_norms, test_pools)
    tried = {case.operator for topic in topics for case in topic.CASES.values()}
    assert tried == {operator.name().removeprefix("aten::") for operator in _own_rules()}
