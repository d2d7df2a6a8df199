"""Two files beside each other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from camcore.adapters import Runner, load
from camcore.adapters.convert.proof import compare, correlation
from camcore.errors import ProofError
from tests.adapters.runner.given import image

IMAGES = [image(1, 12, 12, seed=seed) for seed in range(4)]


def changed(runner: Runner, change: Callable[[list[Any]], None]) -> Runner:
    """A file that gives something else."""

    def graph(given: Any) -> list[Any]:
        outputs = [np.array(each) for each in runner._graph(given)]
        change(outputs)
        return outputs

    return replace(runner, _graph=graph)


def test_a_file_beside_itself(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    found = compare(runner, runner, IMAGES)
    assert (found.images, found.maps, found.best_class_kept) == (4, 4, 1.0)
    assert found.map_correlation == pytest.approx(1)
    assert (found.peak_kept, found.scores_off, found.maps_off) == (1.0, 0.0, 0.0)


def test_differences_are_found(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")

    def scores(outputs: list[Any]) -> None:
        outputs[0] *= 1.5

    assert compare(runner, changed(runner, scores), IMAGES).scores_off == pytest.approx(0.5)

    def mirrored(outputs: list[Any]) -> None:
        outputs[2] = outputs[2][..., ::-1]

    found = compare(runner, changed(runner, mirrored), IMAGES)
    assert found.map_correlation < 0.5
    assert found.peak_kept < 1
    assert found.maps_off > 0.1

    def best(outputs: list[Any]) -> None:
        outputs[1] = (outputs[1] + 1) % 4

    assert compare(runner, changed(runner, best), IMAGES).best_class_kept == 0


def test_maps_are_those_of_the_same_class(toy_folder: Path) -> None:
    """Where the best class is another, the map of the original's is asked for."""
    runner = load(toy_folder / "toy.onnx")

    def graph(given: Any) -> Any:
        if (given["class_ids"] == -1).all():
            best = runner._graph(given)[1]
            return runner._graph({**given, "class_ids": (best + 1) % 4})
        return runner._graph(given)

    found = compare(runner, replace(runner, _graph=graph), IMAGES)
    assert found.best_class_kept == 0
    assert found.map_correlation == pytest.approx(1)


def test_empty_maps_prove_nothing(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")

    def emptied(outputs: list[Any]) -> None:
        outputs[2] *= 0

    empty = changed(runner, emptied)
    with pytest.raises(ProofError, match="the maps of all 4 images are empty"):
        compare(empty, empty, IMAGES)
    # One that is empty where the other is not is as wrong as it gets.
    assert compare(runner, empty, IMAGES).map_correlation == 0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([0, 1, 2], [5, 7, 9], 1.0),
        ([0, 1, 2], [2, 1, 0], -1.0),
        ([3, 3, 3], [1, 1, 1], 1.0),
        ([3, 3, 3], [1, 2, 1], 0.0),
    ],
)
def test_correlation(one: list[float], other: list[float], expected: float) -> None:
    maps: list[NDArray[np.float32]] = [np.float32([each]) for each in (one, other)]
    assert correlation(*maps) == pytest.approx(expected)
