"""A wrong file is refused, with a number, whatever is wrong with it; nothing is left behind."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camcore.adapters.files import read_card
from camcore.errors import ProofError
from camcore.export import Explained, explain, save
from camcore.export.prove.prove import TOLERANCE, _contrast, _error, _fresh_inputs, prove
from camcore.export.prove.reference import Reference
from camcore.export.write.capture import capture
from camcore.export.write.onnx_file import to_onnx
from camcore.export.write.torchscript_file import to_torchscript
from camcore.export.write.write import WRITERS
from tests.export.conftest import LAYER
from tests.export.models import Classifier, SmallNet, build, images

EXAMPLE = images(0, 1, 24, 24)
FORMATS = (".onnx", ".pt", ".pt2")


class Tampered(nn.Module):
    """The body of an explained module, with one of its outputs changed."""

    def __init__(self, body: nn.Module, change: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body
        self.change = change

    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.change(values[0], *self.body(*values))  # type: ignore[no-any-return]


def tampered(explained: Explained, change: Callable[..., Any]) -> Explained:
    return Explained(
        Tampered(explained.body, change), explained.request, explained.found, explained.card
    ).eval()  # type: ignore[arg-type]


def assert_refused(explained: Explained, path: Path, match: str) -> None:
    path.write_bytes(b"what stood there before")
    with pytest.raises(ProofError, match=match):
        save(explained, path)
    assert path.read_bytes() == b"what stood there before"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_sound_file(suffix: str, files: dict[str, Path], explained: Explained) -> None:
    proof = prove(files[suffix], explained)
    assert proof["images"] == 4
    assert 0 < proof["worst_relative_error"] < TOLERANCE
    assert proof["runtime"].split()[0] in {"onnxruntime", "TorchScript,", "torch.export,"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_file_of_another_model(
    suffix: str, explained: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = explain(build(SmallNet, seed=1), EXAMPLE, layer=LAYER)
    content = WRITERS[suffix](capture(other), other.card)
    monkeypatch.setitem(WRITERS, suffix, lambda program, card: content)
    assert_refused(explained, tmp_path / f"model{suffix}", r"\d")


def test_the_file_of_another_layer(
    explained: Explained, small_net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and classes are right, the maps are of the wrong layer."""
    other = explain(small_net, EXAMPLE, layer="block.conv1")
    content = to_torchscript(capture(other), other.card)
    monkeypatch.setitem(WRITERS, ".pt", lambda program, card: content)
    assert_refused(explained, tmp_path / "model.pt", r"saliency_map .* off by \d")


CHANGES: dict[str, tuple[Callable[..., Any], str]] = {
    "scores scaled by 1.001": (lambda x, s, c, m: (s * 1.001, c, m), r"scores .* off by 1\.0e-03"),
    "maps scaled by 1.001": (
        lambda x, s, c, m: (s, c, m * 1.001),
        r"saliency_map .* off by 1\.0e-03",
    ),
    "maps turned over": (lambda x, s, c, m: (s, c, m.flip(-1)), r"saliency_map .* off by \d"),
    "maps of the neighbour": (
        lambda x, s, c, m: (s, c, m.roll(1, 0)),
        r"saliency_map .* off by \d",
    ),
    "classes in another order": (lambda x, s, c, m: (s, c.flip(1), m), r"classes \[\["),
    "an id of no class taken for one": (lambda x, s, c, m: (s, c.clamp(min=0), m), r"classes \[\["),
    "a map for no class": (
        lambda x, s, c, m: (s, c, m.where(c[..., None, None] >= 0, 0.5)),
        r"saliency_map .* off by 5\.0e-01",
    ),
    "no map": (lambda x, s, c, m: (s, c, m * 0), r"saliency_map .* off by 1\.0e\+00"),
    "NaN in one map": (
        lambda x, s, c, m: (s, c, m + 0 * m / (m < 0.999)),
        r"saliency_map .* off by nan",
    ),
    "one pixel": (
        lambda x, s, c, m: (s, c, m + 0.01 * (torch.arange(m.shape[3]) == 3)),
        r"saliency_map .* off by",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tampered_graph(name: str, explained: Explained, tmp_path: Path) -> None:
    change, match = CHANGES[name]
    assert_refused(tampered(explained, change), tmp_path / "model.pt", match)


@pytest.mark.parametrize("suffix", FORMATS)
def test_scores_scaled_in_every_format(suffix: str, explained: Explained, tmp_path: Path) -> None:
    subject = tampered(explained, CHANGES["scores scaled by 1.001"][0])
    assert_refused(subject, tmp_path / f"model{suffix}", r"scores .* off by 1\.0e-03")


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_maps_frozen_from_the_example(suffix: str, small_net: nn.Module, tmp_path: Path) -> None:
    """As from an export of `autograd.grad`: scores follow the image, the map is the example's."""
    subject = explain(small_net, EXAMPLE, layer=LAYER, dynamic_size=False)
    frozen = subject(EXAMPLE).saliency_map[0, 0]

    def change(x: Tensor, s: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        return s, c, frozen.expand(c.shape[0], c.shape[1], 24, 24).clone()

    assert_refused(
        tampered(subject, change), tmp_path / f"model{suffix}", r"saliency_map .* off by \d"
    )


def test_gradients_frozen_from_the_example(small_net: nn.Module, tmp_path: Path) -> None:
    """Subtler: the activations follow the image, the gradients do not."""
    subject = explain(small_net, EXAMPLE, layer=LAYER, dynamic_size=False)
    body: Any = subject.body
    _, (_, saved, _) = body.observe([EXAMPLE])
    best = small_net(EXAMPLE).argmax(1)
    gradient = body.backward_pass(best, *body._repeat_saved(saved, 1))[0].detach()

    class Frozen(nn.Module):
        def forward(self, classes: Tensor, *saved: Tensor) -> tuple[Tensor]:
            return (gradient.expand(classes.shape[0], *gradient.shape[1:]).clone(),)

    body.backward_pass = Frozen()
    assert_refused(subject, tmp_path / "model.pt", r"saliency_map .* off by \d")


class Dead(nn.Module):
    """Nothing of the image is left in its features."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x * 0 - 1)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_a_map_that_is_the_same_for_every_image(method: str, tmp_path: Path) -> None:
    model = build(lambda: Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), Dead()), 4))
    explained = explain(model, EXAMPLE, method=method, layer="features")
    assert_refused(explained, tmp_path / "model.pt", "same for every image")


def test_a_file_that_its_runtime_cannot_load(small_net: nn.Module, tmp_path: Path) -> None:
    """onnxruntime has no convolution in double precision."""
    double = explain(deepcopy(small_net).double(), EXAMPLE.double())
    assert_refused(double, tmp_path / "model.onnx", r"cannot load the file: .*model\.float\(\)")


def test_fresh_inputs_differ_from_the_example(explained: Explained) -> None:
    """Other content, batch sizes, image sizes, numbers and kinds of class ids."""
    inputs = list(_fresh_inputs(explained))
    (example,) = explained.request.inputs
    assert len({len(image) for (image,), _ in inputs}) >= 2
    assert len({image.shape[2:] for (image,), _ in inputs}) >= 2
    assert len({ids.shape[1] for _, ids in inputs}) >= 2
    assert any((ids == -1).any() for _, ids in inputs)
    assert any((ids >= 0).any() for _, ids in inputs)
    for (image,), _ in inputs:
        assert image.std() > 0.5
        assert image.shape != example.shape or (image - example).abs().max() > 1


def test_fresh_inputs_of_a_fixed_size(small_net: nn.Module) -> None:
    explained = explain(small_net, EXAMPLE, dynamic_size=False)
    assert {image.shape[1:] for (image,), _ in _fresh_inputs(explained)} == {(3, 24, 24)}


def test_the_error_that_is_measured() -> None:
    expected = torch.tensor([0.0, -4.0, 2.0])
    assert _error(expected, expected) == 0
    assert _error(expected + torch.tensor([0.0, 0.0, 0.4]), expected) == pytest.approx(0.1)
    assert _error(expected[:2], expected) == float("inf")
    assert np.isnan(_error(torch.full((3,), torch.nan), expected))


def test_maps_are_told_apart_where_the_file_gives_them_well() -> None:
    """Two images, two classes; a kink may put one of the maps far off."""
    classes = torch.tensor([[0, 1], [0, 1]])
    maps = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.2, 1.0], [0.0, 0.0]]])
    expected = Reference((), classes, maps, torch.zeros(2, 2))
    assert _contrast(expected, expected) == 0.5
    off = maps.clone()
    off[1, 1, 0] = 0.06
    assert _contrast(expected._replace(saliency_map=off), expected) == pytest.approx(0.2)
    assert _contrast(expected._replace(saliency_map=maps + 0.06), expected) == 0
    others = expected._replace(classes=torch.tensor([[0, 1], [2, 0]]))
    assert _contrast(others, others) == 0


def test_ties_are_not_held_against_the_file(tmp_path: Path) -> None:
    """Classes with the same weights have the same score, and runtimes may rank them differently."""
    model = build(SmallNet)
    fc: Any = model.get_submodule("fc")
    with torch.no_grad():
        fc.weight[:] = fc.weight[:1] * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5])[:, None]
        fc.bias.zero_()
    card = save(explain(model, EXAMPLE, layer="top"), tmp_path / "model.onnx")
    assert card.proof["worst_relative_error"] < 1e-4


class Kinked(nn.Module):
    """Class 0 looks at one point of the layer, if its value is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.top = nn.Conv2d(1, 2, 1, bias=False)
        nn.init.ones_(self.top.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.top(x)
        beyond = torch.relu(x[:, :1, 5, 5] - self.threshold)
        return x.square().mean((2, 3)) + beyond * torch.tensor([1.0, 0.0])


@pytest.mark.parametrize(("distance", "sound"), [(6e-7, True), (3e-5, False)])
def test_a_gradient_that_jumps(distance: float, sound: bool, tmp_path: Path) -> None:
    """Where a threshold is a rounding error away, the file may lie on its other side."""

    def explained(threshold: float) -> Explained:
        return explain(Kinked(threshold).eval(), EXAMPLE[:, :1], method="hirescam", layer="top")

    *_, (inputs, _) = _fresh_inputs(explained(0.0))
    value = float(inputs[0][0, 0, 5, 5])
    below, above = (explained(value + side * distance * abs(value)) for side in (-1, 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(capture(above), above.card))
    model: Any = below.request.subject.user_model
    model.kept = {"of its last run": model.top(EXAMPLE[:, :1])}  # as LeViT keeps its biases
    if sound:
        assert prove(path, below)["worst_relative_error"] > TOLERANCE
    else:
        with pytest.raises(ProofError, match=r"saliency_map .* changed by a rounding error"):
            prove(path, below)


def test_other_sizes_than_the_example_s_may_be_at_fault(
    small_net: nn.Module, tmp_path: Path
) -> None:
    def by_height(image: Tensor, scores: Tensor, classes: Tensor, maps: Tensor) -> Any:
        return scores, classes, maps * (image.shape[2] / EXAMPLE.shape[2])

    path = tmp_path / "model.pt"
    explained = explain(small_net, EXAMPLE, layer=LAYER)
    with pytest.raises(ProofError, match=r"dynamic_size=False .* makes one for the example's"):
        save(tampered(explained, by_height), path)
    fixed = explain(small_net, EXAMPLE, layer=LAYER, dynamic_size=False)
    save(tampered(fixed, by_height), path)


@pytest.mark.parametrize("pixels", [False, True])
def test_the_example_s_own_size_is_not_called_another(
    pixels: bool, small_net: nn.Module, tmp_path: Path
) -> None:
    explained = explain(small_net, EXAMPLE, layer=LAYER, pixels=pixels, dynamic_size=False)
    wrong = tampered(explained, lambda image, scores, classes, maps: (scores, classes, 2 * maps))
    with pytest.raises(ProofError, match="saliency_map") as caught:
        save(wrong, tmp_path / "model.pt")
    assert "another size" not in str(caught.value)


class Rippled(nn.Module):
    """Scores with waves so short that single precision hardly tells where on them a value is."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency
        self.top = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.top(x)
        return (x + torch.sin(self.frequency * x) / self.frequency).mean((2, 3))


def test_what_single_precision_cannot_do_is_said(tmp_path: Path) -> None:
    model = build(lambda: Rippled(1e4))
    explained = explain(model, EXAMPLE, method="hirescam", layer="top")
    card = save(explained, tmp_path / "model.onnx")
    assert card.proof["worst_relative_error"] > TOLERANCE
    *_, note = read_card(tmp_path / "model.onnx").notes
    assert "single precision is not enough" in note


def test_maps_of_rounding_alone_are_refused(tmp_path: Path) -> None:
    explained = explain(build(lambda: Rippled(1e8)), EXAMPLE, method="hirescam", layer="top")
    assert_refused(explained, tmp_path / "model.onnx", "rounding errors move them by up to")
