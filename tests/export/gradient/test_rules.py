"""Every gradient rule against autograd in float64: its values, and traced with symbolic sizes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from camcore.export.gradient.rules import RULES, _own_rules
from camcore.export.gradient.rules.clamps import _next_to
from camcore.export.gradient.rules.stand_ins import KEPT
from camcore.export.write.forms import FREE_SIZE_RULES, ONNX_RULES

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


def conv(*kernel: int, channels: int = 4, **options: Any) -> Forward:
    """A convolution of `channels` channels to 6, or as many as groups want."""
    groups = options.get("groups", 1)
    out = channels if groups == channels else 6
    weight = random(out, channels // groups, *kernel, seed=2)
    function = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    return lambda x: function(x, weight, **options)


def conv_transpose(*kernel: int, channels: int = 4, **options: Any) -> Forward:
    weight = random(channels, 3, *kernel, seed=2)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(kernel) - 1]
    return lambda x: function(x, weight, **options)


MEAN, SCALE, SHIFT = (random(4, seed=seed) for seed in (3, 4, 5))
VARIANCE = random(4, seed=6).exp()


def batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, MEAN, VARIANCE, SCALE, SHIFT, training=False, eps=1e-3)


def batch_norm_without_weight(x: Tensor) -> Tensor:
    return F.batch_norm(x, MEAN, VARIANCE, training=False)


def instance_norm(x: Tensor) -> Tensor:
    return F.instance_norm(x, weight=SCALE, bias=SHIFT, eps=1e-3)


def pad(*padding: int, mode: str) -> Forward:
    return lambda x: F.pad(x, padding, mode=mode)


def pool(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Forward:
    return lambda x: function(rectified(x) + 0.1 * x, *arguments, **options)


def tied(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Forward:
    # Through a sum, so that the gradient is that of the pool and not of the rounding.
    return lambda x: function(x + (rectified(x) - x).detach(), *arguments, **options)


ONE = ((2, 4, 9), (3, 4, 14), (1, 4, 7))
TWO = ((2, 4, 9, 11), (3, 4, 14, 8), (5, 4, 12, 13))
THREE = ((2, 4, 5, 7, 6), (3, 4, 6, 9, 8))

CONVOLUTION = "convolution_backward"
CASES = {
    "conv": Case(CONVOLUTION, conv(3, 3, padding=1), TWO),
    "conv_even_kernel": Case(CONVOLUTION, conv(4, 2, padding=(1, 0)), TWO),
    "conv_strided": Case(CONVOLUTION, conv(3, 3, stride=2, padding=1), TWO),
    "conv_stride_beyond_kernel": Case(CONVOLUTION, conv(1, 2, stride=3), TWO),
    # At the first size nothing is cropped, which a trace may take for the rule.
    "conv_stride_without_crop": Case(
        CONVOLUTION, conv(1, 1, stride=2), ((2, 4, 8, 10), (3, 4, 9, 7), (1, 4, 5, 6))
    ),
    "conv_stride_one_axis": Case(CONVOLUTION, conv(3, 5, stride=(1, 3), padding=(2, 1)), TWO),
    "conv_padding_beyond_reach": Case(CONVOLUTION, conv(2, 1, padding=(3, 2)), TWO),
    "conv_padding_beyond_reach_strided": Case(CONVOLUTION, conv(3, 1, stride=2, padding=4), TWO),
    "conv_dilated": Case(CONVOLUTION, conv(3, 2, dilation=(2, 3), padding=(2, 1)), TWO),
    "conv_dilated_strided": Case(CONVOLUTION, conv(3, 3, dilation=2, stride=3, padding=1), TWO),
    "conv_groups": Case(CONVOLUTION, conv(3, 3, groups=2, padding=1), TWO),
    "conv_groups_strided": Case(CONVOLUTION, conv(3, 3, groups=2, stride=2), TWO),
    "conv_depthwise": Case(CONVOLUTION, conv(3, 5, groups=4, padding=(1, 2)), TWO),
    "conv_depthwise_strided": Case(CONVOLUTION, conv(3, 3, groups=4, stride=2, padding=1), TWO),
    "conv_1d": Case(CONVOLUTION, conv(4, stride=3, padding=1), ONE),
    "conv_3d": Case(CONVOLUTION, conv(3, 2, 1, stride=(2, 1, 3), padding=(1, 0, 1)), THREE),
    "conv_transposed": Case(CONVOLUTION, conv_transpose(3, 2, stride=2, padding=1), TWO),
    "conv_transposed_output_padding": Case(
        CONVOLUTION, conv_transpose(3, 3, stride=3, padding=1, output_padding=(1, 2)), TWO
    ),
    "conv_transposed_1d": Case(CONVOLUTION, conv_transpose(5, dilation=2, output_padding=1), ONE),
    "batch_norm": Case("native_batch_norm_backward", batch_norm, TWO),
    "batch_norm_plain": Case("native_batch_norm_backward", batch_norm_without_weight, TWO),
    "batch_norm_1d": Case("native_batch_norm_backward", batch_norm, ONE),
    "instance_norm": Case("native_batch_norm_backward", instance_norm, TWO),
    "instance_norm_plain": Case("native_batch_norm_backward", F.instance_norm, TWO),
    "instance_norm_3d": Case("native_batch_norm_backward", instance_norm, THREE),
    "max_pool_ties": Case("max_pool2d_with_indices_backward", tied(F.max_pool2d, 3, 2, 1), TWO),
    "max_pool_ceil": Case(
        "max_pool2d_with_indices_backward", tied(F.max_pool2d, 3, 2, ceil_mode=True), TWO
    ),
    "max_pool_dilated": Case(
        "max_pool2d_with_indices_backward", tied(F.max_pool2d, (2, 3), 1, dilation=2), TWO
    ),
    # One length only: PyTorch's own max_pool1d fixes it while it is traced.
    "max_pool_1d": Case("max_pool2d_with_indices_backward", tied(F.max_pool1d, 3, 2, 1), ONE[:1]),
    "max_pool_3d": Case("max_pool3d_with_indices_backward", tied(F.max_pool3d, 2, 1, 1), THREE),
    "adaptive_max_pool": Case(
        "adaptive_max_pool2d_backward", tied(F.adaptive_max_pool2d, (3, 4)), TWO
    ),
    "adaptive_max_pool_3d": Case(
        "adaptive_max_pool3d_backward", tied(F.adaptive_max_pool3d, (2, 3, 1)), THREE
    ),
    "avg_pool": Case("avg_pool2d_backward", pool(F.avg_pool2d, 3, 2, 1), TWO),
    "avg_pool_stride_is_kernel": Case("avg_pool2d_backward", pool(F.avg_pool2d, (2, 3)), TWO),
    "avg_pool_ceil": Case("avg_pool2d_backward", pool(F.avg_pool2d, 3, 2, 1, ceil_mode=True), TWO),
    "avg_pool_ceil_without_pad": Case(
        "avg_pool2d_backward",
        pool(F.avg_pool2d, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        TWO,
    ),
    "avg_pool_without_pad": Case(
        "avg_pool2d_backward", pool(F.avg_pool2d, 3, 1, 1, count_include_pad=False), TWO
    ),
    "avg_pool_divisor": Case(
        "avg_pool2d_backward", pool(F.avg_pool2d, 3, 2, 1, divisor_override=5), TWO
    ),
    "avg_pool_1d": Case("avg_pool2d_backward", pool(F.avg_pool1d, 3, 2, 1), ONE),
    "avg_pool_3d": Case("avg_pool3d_backward", pool(F.avg_pool3d, 2, 2, 1), THREE),
    "adaptive_avg_pool": Case(
        "_adaptive_avg_pool2d_backward", pool(F.adaptive_avg_pool2d, (3, 4)), TWO
    ),
    "adaptive_avg_pool_to_larger": Case(
        "_adaptive_avg_pool2d_backward", pool(F.adaptive_avg_pool2d, (16, 10)), TWO
    ),
    "adaptive_avg_pool_1d": Case(
        "_adaptive_avg_pool2d_backward", pool(F.adaptive_avg_pool1d, 3), ONE
    ),
    "adaptive_avg_pool_3d": Case(
        "_adaptive_avg_pool3d_backward", pool(F.adaptive_avg_pool3d, (2, 3, 4)), THREE
    ),
    "clamp": Case("hardtanh_backward", lambda x: F.hardtanh(x, -0.5, 0.8), TWO),
    "clamp_at_its_bounds": Case("hardtanh_backward", lambda x: F.relu6(7 * tied(F.relu)(x)), TWO),
    "relu": Case("threshold_backward", F.relu, TWO),
    "relu_at_zero": Case("threshold_backward", lambda x: F.relu(tied(F.relu)(x)), TWO),
    "pad_mirrored": Case("reflection_pad2d_backward", pad(3, 1, 0, 2, mode="reflect"), TWO),
    "pad_mirrored_1d": Case("reflection_pad1d_backward", pad(4, 5, mode="reflect"), ONE),
    "pad_mirrored_3d": Case("reflection_pad3d_backward", pad(*[1] * 6, mode="reflect"), THREE),
    "pad_replicated": Case("replication_pad2d_backward", pad(3, 1, 0, 2, mode="replicate"), TWO),
    "pad_replicated_1d": Case("replication_pad1d_backward", pad(40, 5, mode="replicate"), ONE),
    "pad_replicated_3d": Case("replication_pad3d_backward", pad(*[2] * 6, mode="replicate"), THREE),
    "slice": Case("slice_backward", lambda x: x[:, 1:3], TWO),
    "slice_steps": Case("slice_backward", lambda x: x[:, :, 1::3], TWO),
    "slice_steps_short_of_the_end": Case("slice_backward", lambda x: x[..., 0:7:2], TWO),
    "slice_negative": Case("slice_backward", lambda x: x[:, :, -5:-2], TWO),
    "slice_negative_steps": Case("slice_backward", lambda x: x[:, :, -6::2], TWO),
    "slice_beyond_the_end": Case("slice_backward", lambda x: x[:, :, 2:1000], TWO),
    "select": Case("select_backward", lambda x: x[:, :, 2], TWO),
    "select_last": Case("select_backward", lambda x: x[..., -1], TWO),
}


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


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_every_own_rule_has_a_case() -> None:
    own = {operator.name().removeprefix("aten::") for operator in _own_rules()}
    assert own == {case.operator for case in CASES.values()}


def test_values(case: Case) -> None:
    for shape in case.shapes:
        rules = assert_rules_give_the_gradient(case.forward, random(*shape))
        assert case.operator in rules.used


def test_traced_with_symbolic_sizes(case: Case) -> None:
    """Traced at one size, exact at the others: no size of the example has stayed in the graph."""
    graph = traced(case.forward, random(*case.shapes[0]))
    assert not [target for target in operators(graph) if "backward" in str(target)]
    for seed, shape in enumerate(case.shapes):
        x = random(*shape, seed=seed)
        torch.testing.assert_close(graph(x), gradient(case.forward, x), rtol=1e-9, atol=ATOL)


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


@given(
    axes=st.lists(axes(), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2, 4]),
    width=st.integers(1, 2),
    batch=st.integers(1, 3),
)
def test_convolution(axes: list[Axis], groups: int, width: int, batch: int) -> None:
    size, kernel, stride, padding, dilation = (list(values) for values in zip(*axes, strict=True))
    weight = random(width * groups, 4 // groups, *kernel, seed=2)

    def forward(x: Tensor) -> Tensor:
        return aten.convolution(
            x, weight, None, stride, padding, dilation, False, [0] * len(size), groups
        )

    assert_rules_give_the_gradient(forward, random(batch, 4, *size))


@given(
    axes=st.lists(axes(), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_transposed_convolution(axes: list[Axis], groups: int, data: st.DataObject) -> None:
    size, kernel, stride, _, dilation = (list(values) for values in zip(*axes, strict=True))
    extra = [
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    ]
    # Padding takes away from a transposed convolution's output, of which something must remain.
    full = [(axis.size - 1) * axis.stride + axis.dilation * (axis.kernel - 1) + 1 for axis in axes]
    padding = [min(axis.padding, (f - 1) // 2) for axis, f in zip(axes, full, strict=True)]
    weight = random(4, 2, *kernel, seed=2)

    def forward(x: Tensor) -> Tensor:
        return aten.convolution(x, weight, None, stride, padding, dilation, True, extra, groups)

    assert_rules_give_the_gradient(forward, random(2, 4, *size))


def pool_arguments(axes: list[Axis]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Size, kernel, stride and padding; a pool's padding is at most half its kernel."""
    padding = [min(axis.padding, axis.kernel // 2) for axis in axes]
    size = [
        max(axis.size, axis.dilation * (axis.kernel - 1) + 1 - 2 * pad)
        for axis, pad in zip(axes, padding, strict=True)
    ]
    return size, [axis.kernel for axis in axes], [axis.stride for axis in axes], padding


@given(axes=st.lists(axes(), min_size=1, max_size=3), ceil=st.booleans(), seed=st.integers(0, 99))
def test_max_pool(axes: list[Axis], ceil: bool, seed: int) -> None:
    size, kernel, stride, padding = pool_arguments(axes)
    dilation = [axis.dilation for axis in axes]
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(size) - 1]
    forward = tied(function, kernel, stride, padding, dilation, ceil_mode=ceil)
    assert_rules_give_the_gradient(forward, random(2, 3, *size, seed=seed))


@given(
    axes=st.lists(axes(dilations=1), min_size=1, max_size=3),
    ceil=st.booleans(),
    include_pad=st.booleans(),
    divisor=st.none() | st.integers(1, 7),
)
def test_average_pool(axes: list[Axis], ceil: bool, include_pad: bool, divisor: int | None) -> None:
    size, kernel, stride, padding = pool_arguments(axes)
    size = [max(lengths) for lengths in zip(size, kernel, strict=True)]  # avg_pool3d insists
    if len(size) == 1:
        forward: Forward = partial(
            F.avg_pool1d,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            ceil_mode=ceil,
            count_include_pad=include_pad,
        )
    else:
        function = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
        forward = partial(
            function,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            ceil_mode=ceil,
            count_include_pad=include_pad,
            divisor_override=divisor,
        )
    assert_rules_give_the_gradient(forward, random(2, 3, *size))


@pytest.mark.parametrize("kind", ["avg", "max"])
@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
def test_adaptive_pools(kind: str, sizes: list[tuple[int, int]]) -> None:
    size, count = (list(values) for values in zip(*sizes, strict=True))
    function = getattr(F, f"adaptive_{kind}_pool{len(size)}d")
    forward = tied(function, tuple(count))
    assert_rules_give_the_gradient(forward, random(2, 3, *size))


@given(
    size=st.integers(1, 12),
    start=st.integers(-14, 14) | st.none(),
    stop=st.integers(-14, 14) | st.none(),
    step=st.integers(1, 5),
    axis=st.integers(0, 2),
)
def test_slice(size: int, start: int | None, stop: int | None, step: int, axis: int) -> None:
    at = [slice(None)] * 3
    at[axis] = slice(start, stop, step)
    shape = [2, 3, 4]
    shape[axis] = size
    if len(range(size)[at[axis]]) > 0:
        assert_rules_give_the_gradient(lambda x: x[tuple(at)], random(*shape))


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_select(shape: list[int], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    index = data.draw(st.integers(-shape[axis], shape[axis] - 1))
    assert_rules_give_the_gradient(lambda x: x.select(axis, index), random(*shape))


def resample(operator: Any, size: Any, factors: Any, corners: tuple[bool, ...]) -> Forward:
    return lambda x: operator(x, size, *corners, factors)


# What is kept whole, and whether it has an argument for the alignment of corners.
RESAMPLING = {
    aten.upsample_nearest2d.vec: False,
    aten._upsample_nearest_exact2d.vec: False,
    aten.upsample_bilinear2d.vec: True,
    aten._upsample_bilinear2d_aa.vec: True,
    aten.upsample_bicubic2d.vec: True,
    aten._upsample_bicubic2d_aa.vec: True,
}
MODES = [(op, (c,)) for op, aligns in RESAMPLING.items() if aligns for c in (True, False)] + [
    (op, ()) for op, aligns in RESAMPLING.items() if not aligns
]
modes = pytest.mark.parametrize(("operator", "corners"), MODES)


def test_every_kept_operator_has_a_test() -> None:
    assert set(KEPT) == {aten.linear.default, *RESAMPLING}


def adjoint(forward: Forward, x: Tensor) -> Tensor:
    """The gradient of a linear operator that works image by image, from its matrix.

    PyTorch's own gradient of antialiased resizing is not that of its forward pass at width 1.
    """
    size = x.shape[1:].numel()
    y = forward(x)
    seed = (3 * y + 1).sin()
    matrix = forward(torch.eye(size, dtype=x.dtype).reshape(size, *x.shape[1:])).flatten(1)
    return (seed.flatten(1) @ matrix.T).reshape(x.shape)


def changes_size(size: Shape, factors: tuple[float, float]) -> bool:
    """Where a factor leaves a size as it is, PyTorch copies, unless the other axis changes."""
    return all(f == 1 or int(n * f) != n for n, f in zip(size, factors, strict=True))


@modes
@given(
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    target=st.tuples(st.integers(2, 15), st.integers(2, 15))
    | st.tuples(st.floats(1, 3), st.floats(1, 3)),
)
def test_resampling(operator: Any, corners: tuple[bool, ...], size: Shape, target: Any) -> None:
    by_size = isinstance(target[0], int)
    assume(by_size or changes_size(size, target))
    arguments = (target, None, corners) if by_size else (None, target, corners)
    x = random(2, 2, *size)
    given = gradient(resample(KEPT[operator], *arguments), x)
    expected = adjoint(resample(operator, *arguments), x)
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=ATOL)


@modes
@pytest.mark.parametrize("target", [((13, 5), None), (None, (2.0, 3.0)), (None, (0.6, 1.5))])
def test_resampling_traced(operator: Any, corners: tuple[bool, ...], target: Any) -> None:
    graph = traced(resample(KEPT[operator], *target, corners), random(2, 4, 15, 13))
    assert not [target for target in operators(graph) if "backward" in str(target)]
    for shape in ((2, 4, 15, 13), (3, 4, 8, 29), (1, 4, 22, 12)):
        x = random(*shape)
        expected = gradient(resample(operator, *target, corners), x)
        torch.testing.assert_close(graph(x), expected, rtol=1e-9, atol=ATOL)


def test_batch_norm_in_training_mode_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="batch statistics"), Rules():
        gradient(lambda x: F.batch_norm(x, None, None, training=True), random(4, 3, 5, 5))


@pytest.mark.parametrize("operator", ["convolution", "batch norm"])
def test_a_parameter_that_asks_for_its_gradient_is_refused(operator: str) -> None:
    weight = random(4, 4, 1, 1).requires_grad_()

    def forward(x: Tensor) -> Tensor:
        if operator == "convolution":
            return F.conv2d(x, weight)
        return F.batch_norm(x, MEAN, VARIANCE, weight[:, 0, 0, 0])

    x = random(2, 4, 5, 5).requires_grad_()
    with pytest.raises(AssertionError, match=f"{operator}: .*frozen"), Rules():
        torch.autograd.grad(forward(x).sum(), [x, weight])


@pytest.mark.parametrize("shape", [(2, 5), (4, 5), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_kept_whole(shape: Shape, bias: bool) -> None:
    """One operator forwards, one product with the weight as it is stored backwards."""
    arguments = [random(7, 5), random(7) if bias else None]
    stand_in = KEPT[aten.linear.default]
    x = random(*shape)
    graph = traced(lambda x: stand_in(x, *arguments), x, mode="real")
    expected = gradient(lambda x: F.linear(x, *arguments), x)
    torch.testing.assert_close(graph(x), expected, rtol=1e-9, atol=ATOL)
    torch.testing.assert_close(stand_in(x, *arguments), F.linear(x, *arguments))
    assert not operators(graph) & {aten.t.default, aten.transpose.int, aten.permute.default}


@pytest.mark.parametrize(
    ("function", "size", "count", "others"),
    [
        (F.adaptive_avg_pool1d, (9,), 4, [(4,), (17,), (3,)]),
        (F.adaptive_avg_pool2d, (9, 11), (7, 3), [(7, 3), (14, 12), (2, 30)]),
        (F.adaptive_avg_pool3d, (5, 7, 6), (2, 3, 4), [(4, 9, 8), (2, 3, 4)]),
    ],
)
def test_forward_rule_of_adaptive_average_pools(
    function: Any, size: Shape, count: Any, others: list[Shape]
) -> None:
    graph = make_fx(
        lambda x: function(x, count), decomposition_table=FREE_SIZE_RULES, tracing_mode="symbolic"
    )(random(2, 4, *size))
    assert not any("adaptive" in str(target) for target in operators(graph))
    for seed, other in enumerate((size, *others)):
        x = random(3, 4, *other, seed=seed)
        torch.testing.assert_close(graph(x), function(x, count), rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize("count", [1, 3])
def test_forward_rule_stands_aside(count: int) -> None:
    """Global pools, and pools of a known size, stay the operators that they are."""
    mode = "symbolic" if count == 1 else "real"
    graph = make_fx(
        lambda x: aten._adaptive_avg_pool2d(x, [count, count]),
        decomposition_table=FREE_SIZE_RULES,
        tracing_mode=mode,
    )(random(2, 4, 6, 6))
    assert operators(graph) == {aten._adaptive_avg_pool2d.default}


def traced_for_onnx(
    function: Callable[..., Tensor], *inputs: Tensor, mode: str = "symbolic"
) -> fx.GraphModule:
    traced: fx.GraphModule = make_fx(
        function, decomposition_table=ONNX_RULES, tracing_mode=mode, pre_dispatch=True
    )(*inputs)
    traced.graph.eliminate_dead_code()
    return traced


@pytest.mark.parametrize("lead", [(6,), (2, 3, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize(
    ("mask_lead", "options"),
    [(None, {}), (None, {"scale": 0.3}), (None, {"is_causal": True}), (0, {}), (1, {"scale": 0.3})],
)
def test_attention_is_folded(lead: Shape, mask_lead: int | None, options: dict[str, Any]) -> None:
    """A mask has no leading axes, or as many as the others and the same for all heads."""
    inputs = [random(*lead, *size, seed=n) for n, size in enumerate([(5, 8), (7, 8), (7, 6)])]
    if mask_lead is not None:
        inputs.append(random(*[*lead[:-1], 1][: mask_lead * len(lead)], 5, 7, seed=3))

    def attend(*inputs: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*inputs, **options)

    graph = traced_for_onnx(attend, *inputs)
    (attention,) = graph.graph.find_nodes(
        op="call_function", target=aten.scaled_dot_product_attention.default
    )
    assert [argument.meta["val"].ndim for argument in attention.args[:3]] == [4, 4, 4]
    torch.testing.assert_close(graph(*inputs), attend(*inputs), rtol=1e-9, atol=ATOL)


CUBIC = aten.upsample_bicubic2d.vec


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize(
    "target", [((13, 5), None), ((6, 9), None), (None, (2.0, 3.0)), (None, (0.6, 1.5))]
)
def test_cubic_interpolation_becomes_products(target: Any, corners: bool) -> None:
    """What is interpolated is an identity for each axis, not the image."""
    size, factors = target
    x = random(2, 3, 6, 7)
    graph = traced_for_onnx(lambda x: CUBIC(x, size, corners, factors), x, mode="real")
    calls = graph.graph.find_nodes(op="call_function", target=CUBIC)
    assert [tuple(call.args[0].meta["val"].shape) for call in calls] == [(1, 1, 6, 6), (1, 1, 7, 7)]
    torch.testing.assert_close(graph(x), CUBIC(x, size, corners, factors), rtol=1e-9, atol=ATOL)


@pytest.mark.parametrize(("channels", "mode"), [(3, "symbolic"), (1, "real")])
def test_cubic_interpolation_stands_aside(channels: int, mode: str) -> None:
    """Of a free size, whose matrices could not wait, and of what is as small as these."""
    x = random(2, channels, 6, 7)
    graph = traced_for_onnx(lambda x: CUBIC(x, (13, 5), False, None), x, mode=mode)
    assert operators(graph) == {CUBIC}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@given(bound=st.floats(-60, 60), other=st.floats(-60, 60))
def test_the_number_next_to_a_bound(dtype: torch.dtype, bound: float, other: float) -> None:
    tiny = torch.finfo(dtype).tiny
    first, second = torch.tensor([bound, other], dtype=dtype)
    assume(first != second and (first == 0 or abs(first) > 2 * tiny))
    expected = torch.nextafter(first, second)
    if first == 0:
        expected = torch.copysign(torch.tensor(tiny, dtype=dtype), second)
    found = _next_to(float(first), other, dtype)
    assert float(torch.tensor(found, dtype=dtype)) == found == float(expected)


def test_the_number_next_to_infinity() -> None:
    largest = torch.finfo(torch.float32).max
    assert _next_to(math.inf, 0.0, torch.float32) == largest
    assert _next_to(-math.inf, 0.0, torch.float32) == -largest
