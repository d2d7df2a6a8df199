"""The kernels become graphs: exported at one size, run in onnxruntime at others, equal to eager."""

import functools
from collections import Counter
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental import _config
from torch.nn import functional as F

import camcore
from camcore import targets

DYNAMIC = torch.export.Dim.DYNAMIC


class Explain(nn.Module):
    """What an exported file holds behind its model: a method, post-processing, class selection."""

    def __init__(self, method: str, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.method = camcore.get_method(method)
        self.size = size

    def forward(
        self, image: Tensor, activations: Tensor, gradients: Tensor, scores: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        arrays = {
            "activations": (activations,),
            "gradients": (activations, gradients),
            "class_weights": (activations, gradients[..., 0, 0]),
        }
        raw = self.method.kernel(*arrays[self.method.needs])
        size = self.size or tuple(image.shape[-2:])
        saliency_map = camcore.postprocess(raw, size, relu=self.method.relu)
        return saliency_map, camcore.select_classes(scores, ids)


def example(
    seed: int, batch: int, k: int, image: tuple[int, int], feature: tuple[int, int]
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    random = functools.partial(torch.randn, generator=generator)
    ids = torch.full((1, k), -1)
    ids[0, 0] = 3
    return (
        random(batch, 3, *image),
        random(batch, 8, *feature).relu(),
        random(batch, 8, *feature),
        random(batch, 10),
        ids,
    )


@functools.cache
def exported(method: str, dynamic: bool) -> tuple[Explain, Any]:
    """The module and its ONNX program; height and width are dynamic or those of the example."""
    module = Explain(method, None if dynamic else (64, 96))
    space = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC} if dynamic else {0: DYNAMIC}
    program = torch.export.export(
        module,
        example(0, batch=2, k=3, image=(64, 96), feature=(4, 6)),
        dynamic_shapes=(space, space, space, {0: DYNAMIC}, {1: DYNAMIC}),
    )
    return module, torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)


def run(program: Any, inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    taken = [each.name for each in session.get_inputs()]
    names = ["image", "activations", "gradients", "scores", "ids"]
    given = dict(zip(names, inputs, strict=True))
    outputs: list[np.ndarray] = session.run(None, {name: given[name].numpy() for name in taken})
    return outputs


def assert_same(module: Explain, program: Any, inputs: tuple[Tensor, ...]) -> None:
    saliency_map, classes = module(*inputs)
    ran_map, ran_classes = run(program, inputs)
    np.testing.assert_allclose(ran_map, saliency_map.numpy(), rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(ran_classes, classes.numpy())


# The others take gradients of other shapes; FullGrad's terms, LeGrad and guided gradients are
# below.
ALIKE = [
    name
    for name, method in camcore.METHODS.items()
    if method.needs in {"activations", "gradients", "class_weights"}
]


# One that needs each kind of evidence, and one that is computed in a way of its own.
TOLD_APART = ("cam", "gradcam", "gradcam++", "eigencam")


@pytest.mark.parametrize(
    "method",
    [
        method if method in TOLD_APART else pytest.param(method, marks=pytest.mark.slow)
        for method in ALIKE
    ],
)
def test_other_batch_image_and_feature_sizes(method: str) -> None:
    module, program = exported(method, dynamic=True)
    assert_same(module, program, example(1, batch=5, k=2, image=(97, 50), feature=(7, 3)))
    assert_same(module, program, example(2, batch=1, k=10, image=(20, 31), feature=(40, 9)))


def test_other_batch_at_a_fixed_size() -> None:
    module, program = exported("gradcam", dynamic=False)
    assert_same(module, program, example(1, batch=5, k=1, image=(64, 96), feature=(4, 6)))


def test_different_inputs_give_different_maps() -> None:
    """A map frozen to the example would pass any comparison on the example."""
    _, program = exported("gradcam", dynamic=True)
    size = {"batch": 2, "k": 1, "image": (32, 32), "feature": (4, 4)}
    first, second = (run(program, example(seed, **size))[0] for seed in (1, 2))
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_a_nonfinite_map_is_nan_throughout_and_alone(method: str, bad: float) -> None:
    """onnxruntime's ReduceMax and ReduceMin skip NaN, so this does not follow from eager."""
    module, program = exported(method, dynamic=True)
    inputs = example(1, batch=3, k=1, image=(30, 30), feature=(5, 6))
    inputs[1][1, 2, 3, 3] = bad
    inputs[2][1, 2, 3, 3] = 1.0
    assert_same(module, program, inputs)
    saliency_map = run(program, inputs)[0]
    assert np.isnan(saliency_map[1]).all()
    assert np.isfinite(saliency_map[[0, 2]]).all()


def test_the_graph_is_lean() -> None:
    """At a fixed size the interpolation matrices are constants and no size is computed."""
    _, program = exported("gradcam", dynamic=False)
    operators = Counter(node.op_type for node in program.model_proto.graph.node)
    assert operators["MatMul"] == 3  # the weighted sum and two axes of resizing
    assert operators["TopK"] == 1
    assert not operators.keys() & {"Range", "Resize", "ScatterElements", "Expand", "Loop", "If"}
    # Four of them tell ids that are no class's. PyTorch 2.11 writes three more.
    assert operators.total() <= (31 if torch.__version__ >= "2.12" else 34)
    _, program = exported("gradcam", dynamic=True)
    assert len(program.model_proto.graph.node) <= 85  # sizes for the weighted sum among them


def test_of_equal_scores_the_lower_class_comes_first() -> None:
    _, program = exported("gradcam", dynamic=False)
    inputs = list(example(1, batch=2, k=4, image=(64, 96), feature=(4, 6)))
    inputs[3], inputs[4] = torch.zeros(2, 10), torch.full((1, 4), -1)
    np.testing.assert_array_equal(run(program, tuple(inputs))[1], [[0, 1, 2, 3]] * 2)


class Enlarged(nn.Module):
    """Maps whose size follows from the image's by way of fractions, resized to the image's."""

    def forward(self, image: Tensor) -> Tensor:
        maps = F.interpolate(image[:, :, ::3, ::2], scale_factor=2, mode="bicubic")
        return camcore.resize(maps[:, 0], tuple(image.shape[-2:]))


def test_resizing_from_a_size_that_is_hard_to_tell() -> None:
    """Traced as an export is, which may not look at the example's sizes."""
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        free = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
        program = torch.export.export(Enlarged(), (torch.rand(2, 3, 8, 9),), dynamic_shapes=(free,))
    image = torch.rand(3, 3, 13, 20)
    torch.testing.assert_close(program.module()(image), Enlarged()(image))


class Others(nn.Module):
    """The kernels that `Explain` leaves out, on the tokens of a transformer."""

    def forward(self, tokens: Tensor, channels_last: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        activations = camcore.tokens_to_grid(tokens, (4, 5), prefix_tokens=2)
        maps = camcore.hirescam(activations, camcore.channels_last_to_first(channels_last))
        found = camcore.threshold_box(camcore.normalize(maps), 0.4)
        return maps, found, camcore.pointing_game(maps, boxes), camcore.box_iou(found, boxes)


def test_layouts_and_metrics() -> None:
    def inputs(batch: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        random = functools.partial(torch.randn, generator=generator)
        boxes = torch.tensor([[0.0, 1.0, 3.0, 4.0]]).expand(batch, 4)
        return random(batch, 2 + 4 * 5, 8), random(batch, 4, 5, 8), boxes.contiguous()

    program = torch.export.export(
        Others(), inputs(2), dynamic_shapes=({0: DYNAMIC}, {0: DYNAMIC}, {0: DYNAMIC})
    )
    onnx_program = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(onnx_program.model_proto.SerializeToString())
    given = inputs(7)
    names = [each.name for each in session.get_inputs()]
    ran = session.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
    for actual, expected in zip(ran, Others()(*given), strict=True):
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5, atol=2e-6)


class Rest(nn.Module):
    """What needs no image, or little: targets, terms of FullGrad, guided gradients, LeGrad, layers
    put together, smoothing.
    """

    def forward(
        self, scores: Tensor, ids: Tensor, activations: Tensor, gradients: Tensor, attention: Tensor
    ) -> tuple[Tensor, ...]:
        weights = camcore.gradcam_weights(activations, gradients)
        layers = [camcore.gradcam(activations, gradients), camcore.fem(activations)]
        return (
            targets.finer(scores, ids, alpha=0.6),
            targets.rest(scores),
            targets.probability(scores),
            targets.binary(scores[:, :1]),
            camcore.fullgrad_input(activations, gradients, scale="layer"),
            camcore.fullgrad_bias(weights[0, :], gradients),
            camcore.guided_gradcam(activations, gradients, attention),
            camcore.legrad(attention, (2, 3), prefix_tokens=1),
            camcore.aggregate(layers, how="product"),
            camcore.smooth_by_component(activations, weights),
            camcore.smoothgradcam_plus_plus(activations, gradients[None, ...]),
            camcore.shapleycam(activations, gradients, gradients * activations),
        )


def test_the_other_kernels() -> None:
    def inputs(batch: int, side: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        random = functools.partial(torch.randn, generator=generator)
        return (
            random(batch, 10),
            torch.randint(10, (batch, 2), generator=generator),
            random(batch, 4, side, side + 1).relu(),
            random(batch, 4, side, side + 1),
            random(batch, 3, 7, 7),
        )

    space = {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC}
    program = torch.export.export(
        Rest(),
        inputs(2, 5),
        dynamic_shapes=({0: DYNAMIC}, {0: DYNAMIC}, space, space, {0: DYNAMIC}),
    )
    onnx_program = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(onnx_program.model_proto.SerializeToString())
    given = inputs(6, 9)
    names = [each.name for each in session.get_inputs()]
    ran = session.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
    for actual, expected in zip(ran, Rest()(*given), strict=True):
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "shape", "most"),
    [
        pytest.param("eigencam", (2048, 7, 7), 67, id="eigencam"),
        pytest.param("eigencam", (64, 56, 56), 67, id="eigencam-early"),
        pytest.param("kpcacam", (256, 14, 14), 89, id="kpcacam"),
    ],
)
def test_components_are_lean(method: str, shape: tuple[int, int, int], most: int) -> None:
    """No loop, no unrolled hundreds of steps, and what they give is what eager gives."""

    class Raw(nn.Module):
        def forward(self, activations: Tensor) -> Any:
            return camcore.get_method(method).kernel(activations)

    activations = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    onnx_program = torch.onnx.export(
        Raw().eval(), (activations,), dynamo=True, opset_version=18, verbose=False
    )
    assert len(onnx_program.model_proto.graph.node) <= most
    session = onnxruntime.InferenceSession(onnx_program.model_proto.SerializeToString())
    (name,) = (each.name for each in session.get_inputs())
    other = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))
    (ran,) = session.run(None, {name: other.numpy()})
    expected = Raw()(other).numpy()
    np.testing.assert_allclose(ran, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
