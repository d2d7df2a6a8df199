"""The subject: any outputs and inputs, images as pixels, and the user's model left alone."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.adapters import load
from camcore.card import ImageSpec
from camcore.errors import ExportError, InputError, UnknownNameError
from camcore.export import Explained, explain, save
from camcore.export.trace.subject import Subject, name_inputs, named_outputs, pick_output
from camcore.export.trace.targets import TARGETS
from tests.export.models import EXAMPLE, Classifier, build, images
from tests.export.oracle import (
    TOLERANCE,
    fast_in,
    first_fast,
    maps_by_hand,
    run_any_file,
    worst_error,
)

FORMATS = (".onnx", ".pt", ".pt2")
A, B, C = torch.zeros(2, 5), torch.ones(2, 5), torch.full((2, 3), 2.0)

Pair = namedtuple("Pair", ["logits", "boxes"])


@dataclass
class Record:
    logits: Tensor
    hidden: Any = None


class ModelOutput(OrderedDict[str, Any]):
    """What Hugging Face's models return: an ordered dictionary, which is a data class as well."""


# Names of what a model returns.


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (A, {"scores": A}),
        ((A, B), {"output_0": A, "output_1": B}),
        ([A, B], {"output_0": A, "output_1": B}),
        ((A,), {"output_0": A}),
        ({"logits": A, "aux": B}, {"logits": A, "aux": B}),
        (Pair(A, B), {"logits": A, "boxes": B}),
        (Pair(A, None), {"logits": A}),
        (Record(A, (B, C)), {"logits": A, "hidden_0": B, "hidden_1": C}),
        (Record(A), {"logits": A}),
        (ModelOutput(loss=None, logits=A, all=(B, C)), {"logits": A, "all_0": B, "all_1": C}),
        ((A, {"deep": [B, Pair(C, A)]}), {
            "output_0": A, "output_1_deep_0": B, "output_1_deep_1_logits": C,
            "output_1_deep_1_boxes": A,
        }),
        ([[A], [B]], {"output_0_0": A, "output_1_0": B}),
        ({0: A, 1: B}, {"output_0": A, "output_1": B}),
        ({"a.b": A, "c d": B}, {"a_b": A, "c_d": B}),
        ({"class": A, "1st": B, "_x": C}, {"output_class": A, "output_1st": B, "x": C}),
        ({"aux": A, "scores": B}, {"aux": A, "scores": B}),
    ],
)  # fmt: skip
def test_names_of_outputs(returned: Any, expected: dict[str, Tensor]) -> None:
    given = named_outputs(returned)
    assert list(given) == list(expected)
    assert all(given[name] is expected[name] for name in expected)
    # They become the fields of a named tuple.
    namedtuple("Fields", given)  # type: ignore[misc]


@pytest.mark.parametrize("returned", [(), {}, [], None, {"a": None}, ((), [])])
def test_nothing_returned(returned: Any) -> None:
    with pytest.raises(ExportError, match="returns no tensor"):
        named_outputs(returned)


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (3.0, "float"),
        ("text", "str"),
        ((A, 3), "int"),
        ({"a": A, "b": {A}}, "set"),
        (Record, "type"),
    ],
)
def test_something_else_returned(returned: Any, kind: str) -> None:
    with pytest.raises(ExportError, match=f"returns a {kind}, expected tensors"):
        named_outputs(returned)


@pytest.mark.parametrize("name", ["classes", "saliency_map", "image", "class_ids"])
def test_names_of_the_explanation_are_taken(name: str) -> None:
    with pytest.raises(ExportError, match=rf"own outputs are called \['{name}'\]"):
        named_outputs({"logits": A, name: B})


@pytest.mark.parametrize(
    "returned",
    [{"a.b": A, "a_b": B}, {"x": {"y": A}, "x_y": B}, {"_a": A, "a": B}, {"é ": A, "é_": B}],
)
def test_outputs_are_not_lost_where_names_become_the_same(returned: Any) -> None:
    with pytest.raises(ExportError, match="cannot be told apart by name"):
        named_outputs(returned)


@pytest.mark.parametrize(
    ("output", "name"), [(None, "a"), (0, "a"), (2, "c"), (-1, "c"), (-3, "a"), ("b", "b")]
)
def test_picking_an_output(output: Any, name: str) -> None:
    assert pick_output({"a": A, "b": B, "c": C}, output) == name


@pytest.mark.parametrize("output", [3, -4])
def test_picking_an_index_that_does_not_exist(output: int) -> None:
    with pytest.raises(UnknownNameError, match=rf"has 3 outputs \(a, b, c\), no .* {output}"):
        pick_output({"a": A, "b": B, "c": C}, output)


@pytest.mark.parametrize("name", ["count", "index", "get", "items", "keys", "values"])
def test_names_of_methods_are_changed(name: str) -> None:
    assert named_outputs({"logits": A, name: B}) == {"logits": A, f"output_{name}": B}


def any_number(image: Tensor, *others: Tensor) -> Tensor:
    return image


def two_named(x: Tensor, mask: Tensor, /, age: Tensor, *, flag: bool = False) -> Tensor:
    return x


def of_the_contract(x: Tensor, image: Tensor, class_ids: Tensor, scores: Tensor) -> Tensor:
    return x


def numbered(x: Tensor, image: Tensor, input_1: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("forward", "outputs", "names"),
    [
        (two_named, ("scores",), ("mask", "age")),
        (two_named, ("mask", "z"), ("input_1", "age")),
        (any_number, ("scores",), ("input_1", "input_2")),
        (any_number, ("scores", "input_2"), ("input_1", "input_2_")),
        (of_the_contract, ("scores",), ("input_1", "input_2", "input_3")),
        (of_the_contract, ("logits",), ("input_1", "input_2", "scores")),
        (numbered, ("scores",), ("input_1_", "input_1")),
        (numbered, ("input_1",), ("input_1_", "input_2")),
    ],
)
def test_inputs_have_the_names_of_their_parameters(
    forward: Any, outputs: tuple[str, ...], names: tuple[str, ...]
) -> None:
    model = nn.Module()
    model.forward = forward  # type: ignore[method-assign]
    assert name_inputs(model, len(names), outputs) == names


def test_picking_a_name_that_does_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="unknown output 'logit'; nearest: logits"):
        pick_output({"logits": A, "boxes": B}, "logit")


def test_the_subject_of_a_plain_classifier_returns_one_tensor_thrice() -> None:
    model = build(features)
    outputs, ranking, scores = Subject(model, TARGETS["logit"])(images(1, 2, 24, 24))
    assert ranking is scores is outputs


# Models that return several tensors.


def features() -> nn.Module:
    return Classifier(
        nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.GELU()), 8
    )


class Returning(nn.Module):
    """A classifier whose scores z (B, 5), and others y (B, 3), come out as `pack` packs them."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net = features()
        self.other = nn.Linear(5, 3)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        z = self.net(x)
        return self.pack(z, self.other(z.tanh()))


# Packing, output to explain, how to find it in what is returned, names.
PACKINGS: dict[str, tuple[Any, Any, Callable[[Any], Tensor], tuple[str, ...]]] = {
    "tuple": (lambda z, y: (z, y), None, lambda r: r[0], ("output_0", "output_1")),
    "second of a list": (lambda z, y: [z, y], 1, lambda r: r[1], ("output_0", "output_1")),
    "dictionary": (lambda z, y: {"y": y, "z": z}, "z", lambda r: r["z"], ("y", "z")),
    "nested, last": (
        lambda z, y: {"a": [y.exp(), None], "b": Pair(y, z)},
        -1,
        lambda r: r["b"].boxes,
        ("a_0", "b_logits", "b_boxes"),
    ),
    "data class": (lambda z, y: Record(z, y), None, lambda r: r.logits, ("logits", "hidden")),
    "model output": (
        lambda z, y: ModelOutput(loss=None, logits=z, hidden_states=(y, y + 1)),
        "logits",
        lambda r: r["logits"],
        ("logits", "hidden_states_0", "hidden_states_1"),
    ),
    "the same twice": (lambda z, y: (z, z), 1, lambda r: r[1], ("output_0", "output_1")),
    "names of operators": (
        lambda z, y: {"linear": z, "mean": y.mean(), "tanh": z > 0, "class": z.argmax(1)},
        "linear",
        lambda r: r["linear"],
        ("linear", "mean", "tanh", "output_class"),
    ),
    "constant": (
        lambda z, y: {"z": z, "temperature": torch.ones(3)},
        "z",
        lambda r: r["z"],
        ("z", "temperature"),
    ),
}
LAYER = "net.features.1"
IDS = [[2, 0], [1, 2], [0, 1]]


@pytest.fixture(scope="module", params=PACKINGS)
def returning(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Explained]:
    pack, output, *_ = PACKINGS[request.param]
    model = build(lambda: Returning(pack))
    return request.param, model, explain(model, EXAMPLE, layer=LAYER, output=output)


def test_every_output_is_returned_as_it_is(returning: Any) -> None:
    name, model, explained = returning
    *_, pick, names = PACKINGS[name]
    image = images(2, 3, 28, 20)
    given, plain = explained(image, torch.tensor(IDS)), model(image)
    assert given._fields == explained.card.outputs == (*names, "classes", "saliency_map")
    for field, value in named_outputs(plain).items():
        assert torch.equal(getattr(given, field), value)
    assert explained.card.num_classes == pick(plain).shape[1]
    assert torch.equal(named_outputs(plain)[explained.card.explained], pick(plain))
    expected = maps_by_hand(model, [LAYER], [image], IDS, lambda r, c: pick(r)[0, c])
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    assert np.abs(expected[0, 0] - expected[1, 1]).max() > 0.05  # the same class


# One case for the formats in which names play no part.
@pytest.mark.parametrize(
    ("returning", "suffix"),
    [
        *((name, ".onnx") for name in [*PACKINGS][:2]),
        *(pytest.param(name, ".onnx", marks=pytest.mark.slow) for name in [*PACKINGS][2:]),
        *(("nested, last", suffix) for suffix in FORMATS[1:]),
    ],
    indirect=["returning"],
)
def test_every_output_is_in_the_file(returning: Any, suffix: str, tmp_path: Path) -> None:
    name, model, explained = returning
    *_, pick, names = PACKINGS[name]
    save(explained, tmp_path / f"model{suffix}")
    image = images(3, 3, 20, 28)
    given = run_any_file(tmp_path / f"model{suffix}", image, torch.tensor(IDS))
    if suffix == ".onnx":
        assert tuple(given) == (*names, "classes", "saliency_map")
    for found, value in zip(given.values(), named_outputs(model(image)).values(), strict=False):
        assert found.dtype == value.detach().numpy().dtype
        assert worst_error(found * 1.0, value.detach().numpy() * 1.0) < 1e-6
    *_, maps = given.values()
    expected = maps_by_hand(model, [LAYER], [image], IDS, lambda r, c: pick(r)[0, c])
    assert worst_error(maps, expected) < TOLERANCE


def test_an_output_that_does_not_exist() -> None:
    model = build(lambda: Returning(lambda z, y: {"logits": z, "other": y}))
    with pytest.raises(UnknownNameError, match="unknown output 'logit'; nearest: logits"):
        explain(model, EXAMPLE, output="logit")


@pytest.mark.parametrize(
    "pack", [lambda z, y: {"z": z, "m": y.mean()}, lambda z, y: (z, z.new_ones(6))]
)
def test_test_time_augmentation_wants_a_row_for_each_image(pack: Any) -> None:
    with pytest.raises(ExportError, match=r"aug_smooth .*no row for each image"):
        explain(build(lambda: Returning(pack)), EXAMPLE, aug_smooth=True)


# Models that take more than images.


class WithVector(nn.Module):
    """The image's channels are weighted by a vector (B, 4) and the embedding of an id (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2)
        self.deep = nn.Conv2d(6, 8, 3)
        self.vector = nn.Linear(4, 6)
        self.named = nn.Embedding(7, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor, vector: Tensor, ids: Tensor) -> Tensor:
        x = self.conv(x).tanh() * self.vector(vector)[:, :, None, None]
        x = nn.functional.gelu(self.deep(x)) + self.named(ids)[:, :, None, None]
        return self.fc((x**2).mean((2, 3)))  # type: ignore[no-any-return]


def vectors(seed: int, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 4, generator=generator),
        torch.randint(7, (batch,), generator=generator),
    )


@pytest.fixture(scope="module")
def with_vector() -> tuple[nn.Module, Explained]:
    model = build(WithVector)
    return model, explain(model, (EXAMPLE, *vectors(0, 1)), layer="conv")


def test_several_inputs(with_vector: Any) -> None:
    model, explained = with_vector
    inputs = images(2, 3, 28, 20), *vectors(1, 3)
    given = explained(*inputs, class_ids=torch.tensor(IDS))
    expected = maps_by_hand(model, ["conv"], inputs, IDS, lambda z, c: z[0, c])
    assert torch.equal(given.scores, model(*inputs))
    assert worst_error(given.saliency_map.numpy(), expected) < TOLERANCE
    assert torch.equal(explained(*inputs, torch.tensor(IDS)).saliency_map, given.saliency_map)
    assert torch.equal(explained(*inputs).classes[:, 0], given.scores.argmax(1))
    assert explained.card.inputs == ("image", "vector", "ids", "class_ids")


def test_the_other_inputs_matter_to_the_map(with_vector: Any) -> None:
    _, explained = with_vector
    image, ids = images(2, 1, 24, 24), torch.tensor([[1]])
    maps = [explained(image, *vectors(n, 1), ids).saliency_map for n in (1, 2)]
    assert (maps[0] - maps[1]).abs().max() > 0.05


@pytest.mark.parametrize("suffix", fast_in(".pt2"))
def test_several_inputs_of_a_file(with_vector: Any, suffix: str, tmp_path: Path) -> None:
    model, explained = with_vector
    save(explained, tmp_path / f"model{suffix}")
    inputs = images(2, 3, 28, 20), *vectors(1, 3)
    scores, _, maps = run_any_file(tmp_path / f"model{suffix}", *inputs, torch.tensor(IDS)).values()
    expected = maps_by_hand(model, ["conv"], inputs, IDS, lambda z, c: z[0, c])
    assert worst_error(scores, model(*inputs).detach().numpy()) < 1e-5
    assert worst_error(maps, expected) < TOLERANCE


class Weighted(nn.Module):
    """An input with the name of a weight, and one with that of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = features()
        self.bias = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor, bias: Tensor, mean: Tensor) -> Tensor:
        z: Tensor = self.net(x) + bias @ self.bias
        return z - z.mean(1, keepdim=True) * mean[:, None]


def test_names_of_inputs_that_the_model_has_otherwise(tmp_path: Path) -> None:
    model = build(Weighted)
    inputs = images(2, 3, 28, 20), torch.randn(3, 4), torch.rand(3)
    explained = explain(model, tuple(value[:1] for value in inputs))
    assert explained.card.inputs == ("image", "bias", "mean", "class_ids")
    path = tmp_path / "weighted.onnx"
    save(explain(model, (EXAMPLE, *(value[:1] for value in inputs[1:]))), path)
    given = run_any_file(path, *inputs, torch.tensor(IDS))
    assert worst_error(given["scores"], model(*inputs).detach().numpy()) < 1e-5


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_wrong_number_of_inputs(with_vector: Any, count: int) -> None:
    model, _ = with_vector
    inputs = EXAMPLE, *(vectors(0, 1) * 2)[:count]
    with pytest.raises(InputError, match=r"does not take the example, .*forward\(\)"):
        explain(model, inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"the example is tuple \[\], expected images"),
        ((EXAMPLE, None, torch.tensor([1])), "'NoneType'.*, expected images"),
        ([EXAMPLE, *vectors(0, 1)], r"the example is list .*expected .*a tuple"),
        (torch.zeros(3), "expected images"),
        ((torch.zeros(2, 3, 24, 24), *vectors(0, 1)), "expected a first axis of 2, the batch"),
        ((EXAMPLE, torch.tensor(1.0), torch.tensor([1])), "expected a first axis of 1, the batch"),
    ],
)
def test_inputs_that_are_no_batch(with_vector: Any, inputs: Any, message: str) -> None:
    model, _ = with_vector
    with pytest.raises(InputError, match=message):
        explain(model, inputs)


# Images as pixels.

SPEC = ImageSpec(None, None, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def of_pixels() -> tuple[nn.Module, Explained]:
    model = build(features)
    explained = explain(model, EXAMPLE, layer="features.1", pixels=True, image_spec=SPEC)
    return model, explained


def pixels(seed: int, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Images of uint8 (B, H, W, 3), and the same prepared by hand, (B, 3, H, W)."""
    smooth = 128 + 60 * images(seed, batch, height, width)
    given = smooth.clamp(0, 255).to(torch.uint8)
    prepared = np.zeros(given.shape, np.float64)
    for n, (mean, std) in enumerate(zip(SPEC.mean, SPEC.std, strict=True)):
        prepared[:, n] = (given[:, n].numpy() / 255.0 - mean) / std
    return given.permute(0, 2, 3, 1).contiguous(), torch.tensor(prepared, dtype=torch.float32)


def test_pixels_are_prepared_as_by_hand(of_pixels: Any) -> None:
    model, explained = of_pixels
    given, prepared = pixels(1, 3, 30, 20)
    found = explained(given, torch.tensor(IDS))
    assert found.saliency_map.shape == (3, 2, 30, 20)
    torch.testing.assert_close(found.scores, model(prepared), rtol=1e-5, atol=1e-6)
    expected = maps_by_hand(model, ["features.1"], [prepared], IDS, lambda z, c: z[0, c])
    assert worst_error(found.saliency_map.numpy(), expected) < TOLERANCE
    assert (explained.card.image.dtype, explained.card.image.channels) == ("uint8", 3)


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_pixels_in_a_file(of_pixels: Any, suffix: str, tmp_path: Path) -> None:
    model, explained = of_pixels
    save(explained, tmp_path / f"model{suffix}")
    given, prepared = pixels(2, 3, 20, 33)
    scores, _, maps = run_any_file(tmp_path / f"model{suffix}", given, torch.tensor(IDS)).values()
    assert worst_error(scores, model(prepared).detach().numpy()) < 1e-5
    expected = maps_by_hand(model, ["features.1"], [prepared], IDS, lambda z, c: z[0, c])
    assert worst_error(maps, expected) < TOLERANCE
    assert np.abs(maps[0, 0] - maps[1, 1]).max() > 0.05


def rectified() -> nn.Module:
    return Classifier(
        nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()), 8
    )


AT_THE_IMAGE: dict[str, dict[str, Any]] = {
    "gradcam": {"aug_smooth": True},
    "smoothgradcam++": {"samples": 2},
    "fullgrad": {},
    "guided-backprop": {},
    "scorecam": {"channels": 4},
    "rise": {"n_masks": 20, "stepwise": True, "chunk": 8},
}

# Brightness, a gradient and masks, and each format.
TOLD_APART = {("gradcam", ".onnx"), ("guided-backprop", ".pt"), ("scorecam", ".pt2")}


@pytest.mark.parametrize(
    ("method", "suffix"),
    first_fast(
        sorted(product(AT_THE_IMAGE, FORMATS), key=TOLD_APART.__contains__, reverse=True), 2
    ),
)
def test_what_happens_at_the_image_happens_to_the_prepared_one(
    method: str, suffix: str, tmp_path: Path
) -> None:
    """Noise, masks, brightness and gradients: as for a graph that is given prepared images."""
    model = build(rectified)
    options = AT_THE_IMAGE[method]
    how = {name: value for name, value in options.items() if name != "stepwise"}
    asked = explain(model, EXAMPLE, method=method, image_spec=SPEC, pixels=True, **options)
    path = tmp_path / f"model{suffix}"
    save(asked, path)
    given, prepared = pixels(2, 3, 20, 33)
    expected = explain(model, EXAMPLE, method=method, **how)(prepared, torch.tensor(IDS))
    found = load(path)(given.numpy(), torch.tensor(IDS).numpy())
    assert worst_error(found.saliency_map, expected.saliency_map.numpy()) < TOLERANCE
    # What 20 random masks tell of two images is much alike.
    assert np.abs(found.saliency_map[0, 0] - found.saliency_map[1, 1]).max() > 10 * TOLERANCE


def test_pixels_and_another_input_and_several_outputs(tmp_path: Path) -> None:
    class Both(WithVector):
        def forward(self, x: Tensor, vector: Tensor, ids: Tensor) -> Any:
            return {"first": vector.sum(1), "scores": super().forward(x, vector, ids)}

    model = build(Both)
    explained = explain(
        model,
        (EXAMPLE, *vectors(0, 1)),
        layer="conv",
        pixels=True,
        image_spec=SPEC,
        output="scores",
        target="probability",
    )
    save(explained, tmp_path / "model.onnx")
    given, prepared = pixels(2, 3, 24, 28)
    others = vectors(1, 3)
    found = run_any_file(tmp_path / "model.onnx", given, *others, torch.tensor(IDS))
    expected = maps_by_hand(
        model, ["conv"], [prepared, *others], IDS, lambda r, c: r["scores"].softmax(1)[0, c]
    )
    assert worst_error(found["saliency_map"], expected) < TOLERANCE
    assert worst_error(found["first"], others[0].sum(1).numpy()) < 1e-6


def test_a_mean_that_does_not_fit_the_channels() -> None:
    spec = ImageSpec(None, None, mean=(0.4, 0.5), std=(0.3, 0.3))
    with pytest.raises(InputError, match="3 channels want a mean"):
        explain(build(features), EXAMPLE, pixels=True, image_spec=spec)


# The user's model.


def state_of(model: nn.Module) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "modules": {name: id(module) for name, module in model.named_modules()},
        "attributes": {
            # torch.export puts equal copies in the place of tuples.
            name: {key: repr(v) for key, v in vars(module).items() if not isinstance(v, dict)}
            for name, module in model.named_modules()
        },
        "training": [module.training for module in model.modules()],
        "hooks": [
            (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                len(module._backward_hooks),
                len(module._backward_pre_hooks),
            )
            for module in model.modules()
        ],
        "tensors": {
            name: (id(t), t.data_ptr(), t._version, t.requires_grad, t.grad is None)
            for name, t in tensors.items()
        },
        "values": {name: t.detach().clone().numpy().tobytes() for name, t in tensors.items()},
    }


@pytest.mark.parametrize(
    "options",
    first_fast(
        [
            {"layer": ["features.1", "features.3"], "aug_smooth": True, "eigen_smooth": True},
            {"pixels": True, "image_spec": SPEC, "target": "finer"},
            {"method": "hirescam", "combine": "product"},
            {"method": "eigencam", "dynamic_size": False},
        ]
    ),
)
def test_the_model_is_the_same_object_in_the_same_state(options: Any, tmp_path: Path) -> None:
    model = build(features)
    model.fc.bias.requires_grad_(False)
    before = state_of(model)
    assert len(set(before["tensors"].values())) == 6
    explained = explain(model, EXAMPLE, **options)
    assert explained.request.subject.user_model is model
    image = pixels(1, 2, 24, 24)[0] if "pixels" in options else images(1, 2, 24, 24)
    explained(image)
    save(explained, tmp_path / "model.pt2")
    assert state_of(model) == before


def test_the_model_is_left_alone_where_nothing_comes_of_it() -> None:
    model = build(features)
    before = state_of(model)
    with pytest.raises(ExportError):
        explain(model, EXAMPLE, layer="features.1", target=lambda z: z.detach())
    assert state_of(model) == before
