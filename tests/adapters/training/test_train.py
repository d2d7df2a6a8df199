from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from camcore.adapters.evaluation.annotations import read_annotations
from camcore.adapters.training.images import LabelledImages
from camcore.adapters.training.train import (
    Settings,
    mean_average_precision,
    train,
)
from camcore.card import ImageSpec
from camcore.errors import FileError, InputError

SPEC = ImageSpec(None, None, mean=(0.5,) * 3, std=(0.25,) * 3, resize=(32, 32))
SETTINGS = Settings(epochs=4, batch=2, learning_rate=0.02)


def build() -> nn.Module:
    """With a normalisation and dropout, whose state and randomness are a training's, too."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 5, stride=3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 8))


@pytest.fixture(scope="module")
def learnt(scenes: Path) -> LabelledImages:
    annotated = read_annotations(scenes / "instances.json", scenes / "images").images
    return LabelledImages(annotated[:5], 8, SPEC, seed=0)


@pytest.fixture(scope="module")
def held_out(scenes: Path) -> LabelledImages:
    annotated = read_annotations(scenes / "instances.json", scenes / "images").images
    return LabelledImages(annotated[5:], 8, SPEC)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    learnt: LabelledImages, held_out: LabelledImages, tmp_path: Path
) -> None:
    whole, stopped = build(), build()
    told: list[int] = []
    epochs = list(train(whole, learnt, held_out, SETTINGS, tmp_path / "a.pt", advance=told.append))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert sum(told) == 4 * 2  # five images, the odd one left out of each epoch
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].precision is not None

    running = train(stopped, learnt, held_out, SETTINGS, tmp_path / "b.pt")
    first = [next(running), next(running)]
    running.close()
    other = build()  # as a new process has it
    told.clear()
    again = list(train(other, learnt, held_out, SETTINGS, tmp_path / "b.pt", advance=told.append))
    assert again[:2] == first
    assert again == epochs
    assert sum(told) == 4 * 2
    for name, value in whole.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_what_is_written_while_somebody_stops_it_does_not_harm(
    learnt: LabelledImages,
    held_out: LabelledImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.pt"
    running = train(build(), learnt, held_out, SETTINGS, path)
    next(running)
    before, plain = path.read_bytes(), torch.save

    def save(content: object, target: Path) -> None:
        plain(content, target)
        target.write_bytes(target.read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert path.read_bytes() == before


def test_checkpoints_of_something_else_are_refused(
    learnt: LabelledImages, held_out: LabelledImages, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    next(train(build(), learnt, held_out, SETTINGS, path))
    changed = replace(SETTINGS, seed=3, epochs=5)
    with pytest.raises(FileError, match=r"another training \(epochs, seed differ\)"):
        next(train(build(), learnt, held_out, changed, path))
    wider = build()
    wider[0] = nn.Conv2d(3, 6, 7, stride=3)  # type: ignore[operator]
    with pytest.raises(FileError, match=r"another training \(parameters differ\)"):
        next(train(wider, learnt, held_out, SETTINGS, path))
    path.write_text("nothing")
    with pytest.raises(FileError, match="no checkpoint of a training"):
        next(train(build(), learnt, held_out, SETTINGS, path))


def test_models_that_cannot_learn_this_are_refused(
    learnt: LabelledImages, held_out: LabelledImages, tmp_path: Path
) -> None:
    few = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7))
    with pytest.raises(
        InputError, match=r"gave \(2, 7\) .* expected .* each of 8 classes, \(2, 8\)"
    ):
        next(train(few, learnt, held_out, SETTINGS, tmp_path / "a.pt"))
    wild = replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(InputError, match="try a learning rate below"):
        list(train(build(), learnt, held_out, wild, tmp_path / "b.pt"))


def test_nothing_held_out_has_no_precision(learnt: LabelledImages, tmp_path: Path) -> None:
    nothing = LabelledImages([], 8, SPEC)
    (epoch,) = train(build(), learnt, nothing, replace(SETTINGS, epochs=1), tmp_path / "a.pt")
    assert epoch.precision is None


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**31))
def test_average_precision_as_scikit_learn_has_it(images: int, classes: int, seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    scores = rng.permutation(images * classes).reshape(images, classes).astype(np.float32)
    present = rng.random((images, classes)) < 0.4
    there = present.any(axis=0)
    found = mean_average_precision(scores, present)
    if not there.any():
        assert found is None
        return
    expected = metrics.average_precision_score(present[:, there], scores[:, there], average="macro")
    assert found == pytest.approx(expected)
