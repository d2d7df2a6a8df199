"""Random networks: explained, and in files, they give what hooks and autograd give, or an error."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import CamcoreError
from camcore.export import explain, save
from tests.export.models import build, images
from tests.export.networks import BLOCKS, LAYER, network
from tests.export.oracle import (
    TOLERANCE,
    Result,
    explain_by_hand,
    run_file,
    worst_error,
)

METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "xgradcam", "gradcam-elementwise")
SIZES = ((24, 24), (17, 40), (9, 31), (64, 20), (5, 3), (1, 1), (97, 96))
EXAMPLE = torch.zeros(1, 3, 24, 24)

# A few quick ones; the sweep is slow.
QUICK = range(0, len(BLOCKS), 12)


def seeds(quick: Sequence[int]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "seed",
        [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in range(500)],
    )


def ids_for(random: Random, batch: int, classes: int) -> Tensor:
    """A row for each image, or one for all: classes, best ones, and what is no class."""
    rows, k = random.choice([1, batch]), random.randint(1, classes)
    ids = [[random.randint(-2, classes) for _ in range(k)] for _ in range(rows)]
    return torch.tensor(ids)


def takes(model: nn.Module, image: Tensor) -> bool:
    """Whether the model itself has an answer for images of that size."""
    try:
        with torch.no_grad():
            return bool(model(image[:1]).isfinite().all())
    except (RuntimeError, ValueError):
        return False


def by_hand(model: nn.Module, image: Tensor, ids: Tensor, method: str) -> Result:
    """The map of each id that is a class's; -1 and an empty map of the others."""
    classes = model(image[:1]).shape[1]
    known = (ids >= -1) & (ids < classes)
    expected = explain_by_hand(model, LAYER, image, ids.where(known, 0), method=method)
    known = known.expand(len(image), -1).numpy()
    expected.classes[~known] = -1
    expected.saliency_map[~known] = 0
    return expected


def same(given: Result, expected: Result, allowed: float) -> None:
    assert worst_error(given.scores, expected.scores) <= allowed
    assert (given.classes == expected.classes).all()
    assert abs(given.saliency_map - expected.saliency_map).max() <= allowed


@seeds(QUICK)
def test_explained_in_double_precision(seed: int) -> None:
    """The graph is exact: nothing is left to rounding."""
    make, made_of = network(seed)
    model, random = build(make, seed).double(), Random(seed)
    method = METHODS[seed % len(METHODS)]
    try:
        explained = explain(model, EXAMPLE.double(), method=method, layer=LAYER)
    except CamcoreError as error:
        pytest.fail(f"{made_of} is refused: {error}")
    compared = 0
    for size in [SIZES[0], *random.sample(SIZES[1:], 3)]:
        image = images(seed, random.choice([1, 2, 3]), *size).double()
        fixed = explained.card.image.height, explained.card.image.width
        if not takes(model, image) or fixed not in ((None, None), size):
            continue
        ids = ids_for(random, len(image), model.fc.out_features)
        given = Result(*(value.numpy() for value in explained(image, ids)))
        same(given, by_hand(model, image, ids, method), 1e-7)
        compared += 1
    assert compared


@seeds(QUICK[:2])
def test_files_of_single_precision(seed: int, tmp_path: Path) -> None:
    """What is written is right on other sizes and batches than the proof's; or it is refused.

    As far off as eager PyTorch itself is in single precision, times ten, is not the file's fault.
    """
    make, made_of = network(seed)
    model, random = build(make, seed), Random(seed)
    method = METHODS[seed % len(METHODS)]
    path = tmp_path / f"model{random.choice(['.onnx', '.pt', '.pt2'])}"
    batch = random.choice([1, 3, 64])
    explained = explain(model, EXAMPLE, method=method, layer=LAYER)
    try:
        save(explained, path)
    except CamcoreError as error:
        assert not list(tmp_path.iterdir())
        pytest.skip(f"{made_of} is refused: {error}")
    for size in random.sample(SIZES, 3):
        image = images(seed, batch, *size)
        fixed = explained.card.image.height, explained.card.image.width
        if not takes(model, image) or fixed not in ((None, None), size):
            continue
        ids = ids_for(random, batch, model.fc.out_features)
        exact = by_hand(deepcopy(model).double(), image.double(), ids, method)
        eager = by_hand(model, image, ids, method)
        off = [worst_error(ours, theirs) for ours, theirs in zip(eager, exact, strict=True)]
        same(run_file(path, image, ids), exact, max(TOLERANCE, 10 * max(off[0], off[2])))
