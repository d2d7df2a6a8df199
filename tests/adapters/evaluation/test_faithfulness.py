"""Against the libraries that define each figure, on a model that is no image classifier's first."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics.arcc import ARCC, Coherency, Complexity
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import Tensor, nn

from camcore.adapters.evaluation import faithfulness as module
from camcore.adapters.evaluation.faithfulness import (
    PERCENTILES,
    STEPS,
    MeanFaithfulness,
    adcc,
    check_card,
    coherency,
    faithfulness,
    perturbed,
)
from camcore.errors import InputError
from tests.adapters.toy import CARD, UINT8_CARD

# What the peer does to tensors NumPy warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

LABEL = 2


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(24, 4), nn.Softmax(1)).eval()


def subject(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An image, and a map with equal pixels in it; 13 x 11 is no multiple of the steps."""
    rng = np.random.default_rng(seed)
    saliency_map = np.round(rng.random((13, 11)), 1).astype(np.float32)
    return 2 * rng.normal(size=(3, 13, 11)).astype(np.float32), saliency_map


def again(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Another map, that depends on the image."""
    total = np.abs(image).sum(0)
    return np.asarray(total / total.max(), np.float32)


def scored(model: nn.Module) -> Any:
    def scorer(images: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.no_grad():
            found: NDArray[np.float64] = model(torch.from_numpy(images)).double().numpy()
        return found

    return scorer


def measured(model: nn.Module, seed: int) -> dict[str, float]:
    image, saliency_map = subject(seed)
    rng = np.random.default_rng(0)
    return faithfulness(image, saliency_map, LABEL, scored(model), again, rng)


class Given:
    """To TorchCAM, an extractor that gives this map."""

    def __init__(self, model: nn.Module, saliency_map: NDArray[np.float32]) -> None:
        self.model, self.saliency_map = model, torch.from_numpy(saliency_map)[None]

    def __call__(self, *_: Any) -> list[Tensor]:
        return [self.saliency_map]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    @contextmanager
    def _hooks_off(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("seed", range(6))
def test_as_torchcam_measures(model: nn.Module, seed: int) -> None:
    metrics = pytest.importorskip("torchcam.metrics")
    image, saliency_map = subject(seed)
    found = measured(model, seed)
    given = (torch.from_numpy(image)[None], LABEL)
    confidence = metrics.ClassificationMetric(Given(model, saliency_map))
    confidence.update(*given)
    summary = confidence.summary()
    assert found["average_drop"] == pytest.approx(summary["avg_drop"], abs=1e-5)
    assert found["increase"] == summary["conf_increase"]
    areas = metrics.DeletionInsertionMetric(Given(model, saliency_map), steps=STEPS)
    areas.update(*given)
    summary = areas.summary()
    assert found["deletion"] == pytest.approx(summary["deletion_auc"], abs=1e-5)
    assert found["insertion"] == pytest.approx(summary["insertion_auc"], abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_road_as_pytorch_grad_cam_measures(
    model: nn.Module, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise, which is another each time there."""
    monkeypatch.setattr(module, "NOISE", 0.0)
    image, saliency_map = subject(seed)
    given = (torch.from_numpy(image)[None], saliency_map[None], [lambda out: out[LABEL]], model)
    imputer = NoisyLinearImputer(noise=0)
    expected = np.mean(
        [
            PerturbationConfidenceMetric(RemoveLeastRelevantFirst(each, imputer))(*given)
            - PerturbationConfidenceMetric(RemoveMostRelevantFirst(each, imputer))(*given)
            for each in PERCENTILES
        ]
    )
    assert measured(model, seed)["road"] == pytest.approx(expected / 2, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_adcc_of_its_parts_as_pytorch_grad_cam_has_them(model: nn.Module, seed: int) -> None:
    image, saliency_map = subject(seed)

    def method(input_tensor: Tensor, targets: Any) -> NDArray[np.float32]:
        return again(input_tensor[0].numpy())[None]

    similar = Coherency()(torch.from_numpy(image)[None], saliency_map[None], [], model, method)
    covered = Complexity()(saliency_map[None])
    found = measured(model, seed)
    parts = np.array([similar[0], 1 - covered[0], 1 - found["average_drop"]])
    assert found["adcc"] == pytest.approx(3 / np.sum(1 / parts), abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_as_openvino_xai_measures(model: nn.Module, seed: int) -> None:
    """Its class without an OpenVINO model, whose answers the model here gives."""
    peer = pytest.importorskip("openvino_xai.metrics.adcc")
    image, saliency_map = subject(seed)

    def predict(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = scored(model)(pixels.transpose(2, 0, 1)[None])[0]
        return found

    def explain(pixels: NDArray[np.float32], **_: Any) -> Any:
        return SimpleNamespace(saliency_map={LABEL: again(pixels.transpose(2, 0, 1))})

    metric = object.__new__(peer.ADCC)
    metric.model_predict, metric.explainer, metric.black_box_kwargs = predict, explain, {}
    expected = metric(saliency_map, LABEL, image.transpose(1, 2, 0))
    found = measured(model, seed)
    assert found["adcc"] == pytest.approx(expected["adcc"], abs=1e-5)
    assert found["average_drop"] == pytest.approx(expected["average_drop"], abs=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_arcc_as_pytorch_grad_cam_measures(
    model: nn.Module, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise on either side."""
    monkeypatch.setattr(module, "NOISE", 0.0)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    image, saliency_map = subject(seed)

    def method(input_tensor: Tensor, targets: Any) -> NDArray[np.float32]:
        return again(input_tensor[0].numpy())[None]

    given = (torch.from_numpy(image)[None], saliency_map[None], [lambda out: out[LABEL]], model)
    (expected,) = ARCC(method)(*given)
    assert measured(model, seed)["arcc"] == pytest.approx(expected, abs=1e-5)


def test_perturbed_images_begin_and_end_with_the_whole() -> None:
    image, saliency_map = subject(9)
    deleted, inserted = perturbed(image, saliency_map)
    np.testing.assert_array_equal(deleted[0], image)
    np.testing.assert_array_equal(inserted[-1], image)
    assert not deleted[-1].any()
    assert not inserted[0].any()
    np.testing.assert_allclose(deleted + inserted, np.broadcast_to(image, deleted.shape))
    first = inserted[1].any(axis=0)
    assert saliency_map[first].min() >= saliency_map[~first].max()


def test_maps_that_tell_nothing() -> None:
    flat, other = np.zeros((3, 4), np.float32), np.eye(3, 4, dtype=np.float32)
    assert coherency(flat, other) == 0.5
    assert adcc(np.ones((3, 4), np.float32), other, 0.1) == 0
    assert adcc(other, 1 - other, 0.1) == 0
    assert adcc(other, other, 1.0) == 0


def test_means_over_images() -> None:
    one, other = (dict.fromkeys(module.NAMES, value) for value in (0.25, 0.75))
    found = MeanFaithfulness()
    found.add({})
    assert found.figures() is None
    for entry in ({"faithfulness": one}, {}, {"faithfulness": other}):
        found.add(entry)
    assert found.figures() == dict.fromkeys(module.NAMES, 0.5)


def test_files_that_cannot_be_judged_are_refused() -> None:
    check_card(CARD)
    with pytest.raises(InputError, match="export it without --pixels"):
        check_card(UINT8_CARD)
    with pytest.raises(InputError, match="explains whichever is best"):
        check_card(replace(CARD, class_ids="best", inputs=("image",)))
    for changes in ({"map_size": "feature"}, {"options": {"normalize": False}}):
        with pytest.raises(InputError, match=r"maps in \[0, 1\] of the image's size"):
            check_card(replace(CARD, **changes))  # type: ignore[arg-type]
