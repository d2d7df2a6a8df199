"""Concepts in the file: the kernel's of the layer's activations, whatever else is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import camcore
from camcore.errors import ExportError, InputError, ProofError
from camcore.export import Explained, explain, save
from camcore.export.families import family_of
from camcore.methods import METHODS
from tests.export.models import EXAMPLE, Transformer, build, images
from tests.export.oracle import fast_in, run_any_file
from tests.export.prove.test_prove import tampered

COUNT = 3
pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.fixture(scope="module")
def explained(small_net: nn.Module) -> Explained:
    return explain(small_net, EXAMPLE, layer="top", concepts=COUNT)


def factors(net: nn.Module, image: Tensor, layer: str = "top") -> camcore.Concepts:
    """The factors of what a layer returns, in NumPy and in double precision."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.no_grad():
        net(image)
    handle.remove()
    return camcore.dff(kept[0].double().numpy(), concepts=COUNT)


def assert_concepts(given: Any, net: nn.Module, image: Tensor) -> None:
    maps, directions = factors(net, image)
    size = (image.shape[2], image.shape[3])
    expected = camcore.postprocess(maps, size, relu=False)
    np.testing.assert_allclose(given["concept_maps"], expected, atol=1e-3)
    fc = net.get_submodule("fc")
    rebuilt = np.einsum("bkhw,bkc->bkc", maps, directions) / maps[0, 0].size
    scores = fc(torch.from_numpy(rebuilt).float()).detach() - fc.bias.detach()
    np.testing.assert_allclose(given["concept_scores"], scores, atol=1e-3)


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_in_every_format(
    suffix: str, explained: Explained, small_net: nn.Module, tmp_path: Path
) -> None:
    """At other sizes and in other batches than the example's, for whatever classes."""
    path = tmp_path / f"net{suffix}"
    card = save(explained, path)
    assert (card.concepts, card.outputs[-2:]) == (COUNT, ("concept_maps", "concept_scores"))
    for batch, height, width in [(1, 24, 24), (3, 41, 30)]:
        image = images(height, batch, height, width)
        ids = torch.tensor([[0, -1]]).expand(batch, -1)
        values = list(run_any_file(path, image, ids).values())
        assert_concepts(dict(zip(card.outputs, values, strict=True)), small_net, image)


def test_no_image_changes_another_ones(explained: Explained, small_net: nn.Module) -> None:
    image = images(1, 4, 24, 30)
    with torch.no_grad():
        together, alone = explained(image), explained(image[2:3])
    torch.testing.assert_close(together.concept_maps[2:3], alone.concept_maps, atol=1e-4, rtol=0)
    assert_concepts(together._asdict(), small_net, image)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("eigencam", {"full_size": False}),
        ("cam", {"boxes": 2}),
        ("gradcam", {"aug_smooth": True}),
        ("ablationcam", {}),
        ("scorecam", {"class_ids": "best"}),
        ("fullgrad", {"normalize": False}),
    ],
)
def test_whatever_else_is_asked(method: str, options: dict[str, Any], small_net: nn.Module) -> None:
    """The same concepts beside any map; of a method that takes no layer, those of the default."""
    layer = "top" if family_of(METHODS[method]).takes_layers else None
    explained = explain(small_net, EXAMPLE, method=method, layer=layer, concepts=COUNT, **options)
    image = images(2, 2, 24, 24)
    with torch.no_grad():
        given = explained(image)
    maps, _ = factors(small_net, image)
    size = None if "full_size" in options else (24, 24)
    expected = camcore.postprocess(maps, size, relu=False, normalize=options.get("normalize", True))
    np.testing.assert_allclose(given.concept_maps, expected, atol=1e-3)
    assert given._fields[-2:] == ("concept_maps", "concept_scores")


@pytest.mark.slow
def test_in_steps(small_net: nn.Module, tmp_path: Path) -> None:
    """The state stands behind the concepts, which any step gives."""
    explained = explain(
        small_net, EXAMPLE, method="ablationcam", layer="block", stepwise=True, concepts=2
    )
    card = save(explained, tmp_path / "net.onnx")
    assert card.graph_outputs[-2:] == ("concept_maps", "next_state")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2"])
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"legrad", "vit-reciprocam"}))
def test_beside_every_method(
    method: str, suffix: str, small_net: nn.Module, tmp_path: Path
) -> None:
    layer = "top" if family_of(METHODS[method]).takes_layers else None
    few = {"rise": {"n_masks": 8}, "smoothgradcam++": {"samples": 2}}.get(method, {})
    explained = explain(small_net, EXAMPLE, method=method, layer=layer, concepts=COUNT, **few)
    assert save(explained, tmp_path / f"net{suffix}").concepts == COUNT


@pytest.mark.slow
def test_of_tokens(tmp_path: Path) -> None:
    """On the grid that they lie on; the classifier reads another token, so there are no scores."""
    net = build(Transformer, shape=(3, 32, 24))
    explained = explain(net, torch.zeros(1, 3, 32, 24), method="eigencam", concepts=2)
    card = save(explained, tmp_path / "net.onnx")
    assert card.outputs[-1] == "concept_maps"


def test_no_scores_where_more_than_a_linear_layer_follows(small_net: nn.Module) -> None:
    explained = explain(small_net, EXAMPLE, layer="block", concepts=COUNT)
    assert explained.card.outputs[-1] == "concept_maps"
    assert explained(images(0, 2, 24, 24)).concept_maps.shape == (2, COUNT, 24, 24)


def test_concepts_that_cannot_be_had(small_net: nn.Module) -> None:
    with pytest.raises(InputError, match="expected concepts to be how many there are, got 0"):
        explain(small_net, EXAMPLE, concepts=0)
    with pytest.raises(InputError, match="those of one layer, got block, top: give one"):
        explain(small_net, EXAMPLE, layer=["block", "top"], concepts=2)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_net

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(x), "concept_maps": x}

    with pytest.raises(ExportError, match=r"called \['concept_maps'\].*Leave out concepts"):
        explain(Named().eval(), EXAMPLE, concepts=2)


@pytest.mark.parametrize("wrong", ["maps", pytest.param("scores", marks=pytest.mark.slow)])
def test_wrong_concepts_are_refused(wrong: str, explained: Explained, tmp_path: Path) -> None:
    def changed(image: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        *before, maps, scores = outputs
        if wrong == "maps":
            return *before, maps.flip(1), scores
        return *before, maps, scores + 0.1 * scores.abs().max()

    with pytest.raises(ProofError, match=f"concept_{wrong} from the file are off by"):
        save(tampered(explained, changed), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
