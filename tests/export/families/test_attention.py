"""LeGrad: its map against loops over images, in the graph and in the files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camcore.errors import InputError
from camcore.export import Explained, explain, save
from tests.camcore import references
from tests.export.attending import IDS, Hierarchy, assert_is, by_hand, vit
from tests.export.eager import eagerly
from tests.export.models import EXAMPLE, build, images
from tests.export.oracle import fast_in, run_any_file, worst_error

pytestmark = pytest.mark.usefixtures("shared_traces")


@pytest.fixture(scope="module")
def explained() -> Explained:
    return explain(vit("fused"), EXAMPLE, method="legrad")


@pytest.mark.parametrize("suffix", fast_in(".onnx"))
def test_files_at_other_batch_sizes_and_classes(
    explained: Explained, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"vit{suffix}"
    save(explained, path)
    for batch, ids in ((1, [[4]]), (4, [[0, 3, -1]])):
        image = images(batch, batch, 24, 24)
        scores, classes, maps = run_any_file(path, image, torch.tensor(ids)).values()
        assert worst_error(scores, vit("plain")(image).detach().numpy()) < 1e-4
        expected = by_hand(vit("plain"), image, classes.tolist())
        assert worst_error(maps, expected) < 1e-4


def test_the_class_tokens_query() -> None:
    explained = explain(vit("fused"), EXAMPLE, method="legrad", queries="class")
    assert_is(explained, vit("plain"), queries=1)
    assert explained.card.options["queries"] == "class"


def test_maps_at_the_size_of_the_grid() -> None:
    explained = explain(vit("fused"), EXAMPLE, method="legrad", full_size=False)
    assert explained(images(1, 2, 24, 24)).saliency_map.shape == (2, 1, 3, 3)
    assert_is(explained, vit("plain"), size=None)


def test_smoothing_over_variants_of_the_image() -> None:
    smooth = explain(vit("fused"), EXAMPLE, method="legrad", aug_smooth=True)
    image = images(2, 3, 24, 24)
    given = smooth(image, IDS)
    variants = []
    for factor in (0.9, 1.0, 1.1):
        straight = by_hand(vit("plain"), factor * image, given.classes.tolist())
        mirrored = by_hand(vit("plain"), factor * image.flip(-1), given.classes.tolist())
        variants += [straight, mirrored[..., ::-1]]
    assert worst_error(given.saliency_map.numpy(), np.mean(variants, axis=0)) < 1e-4


def test_grids_of_two_sizes_meet_on_the_finer_one() -> None:
    model = build(Hierarchy)
    explained = explain(model, EXAMPLE, method="legrad")
    assert explained.found.layers == ("fine", "coarse")
    assert any(
        "the attention of few is left out, since 36 queries attend to 9 keys" in note
        for note in explained.card.notes
    )
    image = images(2, 3, 24, 24)
    given = explained(image, IDS)
    raw = {}
    for layer in ("fine", "coarse"):
        alone = explain(
            model, EXAMPLE, method="legrad", layer=layer, full_size=False, normalize=False
        )
        raw[layer] = alone(image, given.classes).saliency_map.double().numpy()
    for b, k in np.ndindex(3, 2):
        coarse = references.resize(raw["coarse"][b, k], (6, 6))
        expected = references.postprocess((raw["fine"][b, k] + coarse) / 2, (24, 24))
        np.testing.assert_allclose(given.saliency_map[b, k], expected, atol=1e-4)
    reference = eagerly(explained, (image,), IDS)
    assert worst_error(given.saliency_map.numpy(), reference.saliency_map.numpy()) < 1e-4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"combine": "product"}, "the mean over its layers, got combine 'product'"),
        ({"eigen_smooth": True}, "eigen_smooth"),
        ({"queries": "cls"}, "'all' or 'class', got 'cls'"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        explain(vit("fused"), EXAMPLE, method="legrad", **options)(EXAMPLE)


def test_the_model_is_left_as_it_is() -> None:
    model = vit("mha")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explained = explain(model, EXAMPLE, method="legrad")
    eagerly(explained, (images(1, 2, 24, 24),), IDS[:2])
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
