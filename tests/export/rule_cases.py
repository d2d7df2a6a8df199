"""Gradients under the rules beside autograd's, in float64, and hard settings of every operator."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from camcore.export.gradient.rules import RULES

aten = torch.ops.aten
Forward = Callable[[Tensor], Tensor]
Shape = tuple[int, ...]
ATOL = 1e-11


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rectified(x: Tensor) -> Tensor:
    """Coarse and at least zero, so that windows are full of ties."""
    return (2 * x).round().relu() / 2


def gradient(forward: Forward, x: Tensor) -> Tensor:
    """Of some function of the output, so that a different gradient arrives at every position."""
    x = x.detach().requires_grad_()
    y = forward(x)
    (result,) = torch.autograd.grad(y, x, (3 * y.detach() + 1).sin())
    return result


class Rules(TorchDispatchMode):
    """While it lasts, the backward operators that autograd calls are computed by their rules."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if "backward" not in operator.name():
            return operator(*args, **(kwargs or {}))
        self.used.add(operator.name().removeprefix("aten::"))
        return RULES[operator](*args, **(kwargs or {}))


def assert_rules_give_the_gradient(forward: Forward, x: Tensor, atol: float = ATOL) -> Rules:
    with Rules() as rules:
        given = gradient(forward, x)
    torch.testing.assert_close(given, gradient(forward, x), rtol=1e-9, atol=atol)
    return rules


def traced(forward: Forward, x: Tensor, mode: str = "symbolic") -> fx.GraphModule:
    """The gradient under the rules as a graph that takes x."""
    function = partial(gradient, forward)
    return make_fx(
        function, decomposition_table=RULES, tracing_mode=mode, _allow_non_fake_inputs=True
    )(x)


def operators(graph: fx.GraphModule) -> set[Any]:
    return {node.target for node in graph.graph.nodes if node.op == "call_function"}


class Case(NamedTuple):
    """An operator's hard settings: traced at the first shape, and evaluated at the others too."""

    operator: str
    forward: Forward
    shapes: tuple[Shape, ...]


MEAN, SCALE, SHIFT = (random(4, seed=seed) for seed in (3, 4, 5))
VARIANCE = random(4, seed=6).exp()


def tied(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Forward:
    # Through a sum, so that the gradient is that of the pool and not of the rounding.
    return lambda x: function(x + (rectified(x) - x).detach(), *arguments, **options)


ONE = ((2, 4, 9), (3, 4, 14), (1, 4, 7))
TWO = ((2, 4, 9, 11), (3, 4, 14, 8), (5, 4, 12, 13))
THREE = ((2, 4, 5, 7, 6), (3, 4, 6, 9, 8))


class Axis(NamedTuple):
    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int


@st.composite
def axes(draw: st.DrawFn, dilations: int = 2) -> Axis:
    """One spatial axis on which at least one window fits."""
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding, dilation = draw(st.integers(0, 4)), draw(st.integers(1, dilations))
    shortest = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    return Axis(shortest + draw(st.integers(0, 6)), kernel, stride, padding, dilation)


def assert_exact(case: Case) -> None:
    for shape in case.shapes:
        rules = assert_rules_give_the_gradient(case.forward, random(*shape))
        assert case.operator in rules.used


def assert_traced_with_symbolic_sizes(case: Case) -> None:
    """Traced at one size, exact at the others: no size of the example has stayed in the graph."""
    graph = traced(case.forward, random(*case.shapes[0]))
    assert not [target for target in operators(graph) if "backward" in str(target)]
    for seed, shape in enumerate(case.shapes):
        x = random(*shape, seed=seed)
        torch.testing.assert_close(graph(x), gradient(case.forward, x), rtol=1e-9, atol=ATOL)
