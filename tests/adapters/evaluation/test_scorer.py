from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from camcore.adapters import load
from camcore.adapters.evaluation.scorer import open_scorer
from camcore.errors import InputError
from tests.adapters.toy import CARD, write_toy


@pytest.mark.parametrize("name", ["spots", "all_spots"])
def test_probabilities_are_those_of_the_file(name: str, request: pytest.FixtureRequest) -> None:
    """Of more images than are run at once."""
    path: Path = request.getfixturevalue(name)
    images = np.random.default_rng(2).normal(size=(37, 3, 24, 32)).astype(np.float32)
    runner = load(path)
    found = open_scorer(path, runner)(images)
    expected = 1 / (1 + np.exp(-runner(images).scores.astype(np.float64)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_part_with_the_maps_is_not_run(spots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    plain = onnxruntime.InferenceSession
    runner = load(spots)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *given, **named: opened.append(plain(*given, **named)) or opened[-1],
    )
    open_scorer(spots, runner)
    assert [each.name for each in opened[0].get_inputs()] == ["image"]
    assert [each.name for each in opened[0].get_outputs()] == ["scores"]


def test_other_formats_and_files_without_probabilities(toy_folder: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(3).normal(size=(2, 3, 9, 8)).astype(np.float32)
    one, other = (
        open_scorer(path, load(path))(images)
        for path in (toy_folder / "toy.onnx", toy_folder / "toy.pt")
    )
    np.testing.assert_allclose(one, other, atol=1e-6)
    path = write_toy(tmp_path / "none.onnx", replace(CARD, probabilities="none"))
    with pytest.raises(InputError, match="export it with --probabilities"):
        open_scorer(path, load(path))(images)
