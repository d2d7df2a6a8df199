import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import array_api_strict
import hypothesis
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import camcore.adapters
import camcore.adapters.runner as runner_module
from camcore.adapters.files import read_card
from camcore.adapters.runner import (
    Explanation,
    check_class_ids,
    check_image,
    class_index,
    class_probabilities,
    class_scores,
    load,
)
from camcore.card import Card, ImageSpec, seal_onnx
from camcore.errors import FileError, InputError, UnknownNameError
from camcore.export import Explained, save
from camcore.export.trace.targets import TARGETS
from tests.adapters.nets import build_segmenter, build_with_mask, build_with_table
from tests.adapters.toy import CARD, onnx_content, reference, write_toy

SUFFIXES = [".onnx", ".pt", ".pt2"]
SPEC = ImageSpec(None, None)


def image(batch: int = 2, height: int = 8, width: int = 9, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 3, height, width), dtype=np.float32)


def close(given: Explanation[Any], images: NDArray[np.float32], ids: object) -> None:
    expected = reference(images, np.asarray(ids))
    np.testing.assert_allclose(np.asarray(given.scores), expected.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(given.classes), expected.classes)
    np.testing.assert_allclose(
        np.asarray(given.saliency_map), expected.saliency_map, rtol=1e-5, atol=1e-6
    )


def test_close_can_fail(toy_folder: Path) -> None:
    given = load(toy_folder / "toy.onnx")(image(), 1)
    with pytest.raises(AssertionError):
        close(given, image(), [[2], [2]])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("class_ids", "full"),
    [
        (None, [[-1]]),
        (2, [[2]]),
        (np.int64(0), [[0]]),
        ([3, 0], [[3, 0]]),
        (np.array([1, -1, 0]), [[1, -1, 0]]),
        (np.array([[1], [3]], np.int32), [[1], [3]]),
        (np.broadcast_to(np.int64(2), (1, 3)), [[2, 2, 2]]),
        (np.array([[-1, -1, -1, -1]]), [[-1] * 4]),
    ],
)
def test_formats_agree_with_numpy(
    toy_folder: Path, suffix: str, class_ids: Any, full: list[list[int]]
) -> None:
    runner = load(toy_folder / f"toy{suffix}")
    given = runner(image(), class_ids)
    assert all(isinstance(array, np.ndarray) for array in given.values())
    assert given.classes.dtype == np.int64
    assert given.saliency_map.dtype == np.float32
    close(given, image(), full)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_batches_and_sizes(toy_folder: Path, suffix: str) -> None:
    runner = load(toy_folder / f"toy{suffix}")
    for batch, height, width in ((3, 16, 12), (2, 5, 31)):
        images = image(batch, height, width, seed=batch)
        close(runner(images, [-1, -1]), images, [[-1, -1]])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_strided_and_read_only_images(toy_folder: Path, suffix: str) -> None:
    runner = load(toy_folder / f"toy{suffix}")
    strided = np.ascontiguousarray(image().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    strided.flags.writeable = False
    before = strided.copy()
    close(runner(strided), before, [[-1]])
    np.testing.assert_array_equal(strided, before)
    close(runner(image()[:, ::-1, :, ::-1]), image()[:, ::-1, :, ::-1], [[-1]])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_torch_in_torch_out(toy_folder: Path, suffix: str, layout: torch.memory_format) -> None:
    tensor = torch.from_numpy(image()).to(memory_format=layout)
    given = load(toy_folder / f"toy{suffix}")(tensor, torch.tensor([[1, -1]]))
    assert all(isinstance(array, torch.Tensor) for array in given.values())
    close(given, image(), [[1, -1]])


def test_results_outlive_the_runner_and_the_next_run(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    first = runner(torch.from_numpy(image()))
    runner(torch.from_numpy(image(seed=1)))
    del runner
    close(first, image(), [[-1]])


def test_any_array_api_library(toy_folder: Path) -> None:
    strict = array_api_strict.asarray(image())
    given = load(toy_folder / "toy.onnx")(strict, 1)
    assert isinstance(given.saliency_map, type(strict))
    close(given, image(), [[1]])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_steps_give_what_one_run_gives(
    stepwise_folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = load(stepwise_folder / f"stepwise{suffix}")
    assert runner.card.steps == 4
    told: list[tuple[int, int]] = []
    whole = runner(image(2, 20, 30), [[0, 1], [2, -1]])
    # However fast the machine is, and however slow.
    for seconds, expected in ((0.0, [0, 1, 2, 3, 4]), (1e9, [0, 1, 3, 4])):
        monkeypatch.setattr("camcore.adapters.runner._SECONDS_OF_STEPS", seconds)
        told.clear()
        given = runner(
            image(2, 20, 30),
            [[0, 1], [2, -1]],
            progress=lambda done, total: told.append((done, total)),
        )
        assert told == [(done, 4) for done in expected]
        assert list(given) == ["scores", "classes", "saliency_map"]
        for name in given:
            np.testing.assert_allclose(given[name], whole[name], rtol=0, atol=1e-6)
    other = runner(image(2, 20, 30, seed=1), [[0, 1], [2, -1]], progress=lambda *_: None)
    assert np.abs(other.saliency_map - whole.saliency_map).max() > 0.05


def test_steps_with_torch_tensors(stepwise_folder: Path) -> None:
    for suffix in SUFFIXES:
        runner = load(stepwise_folder / f"stepwise{suffix}")
        given = runner(torch.from_numpy(image()), 2, progress=lambda *_: None)
        assert isinstance(given.saliency_map, torch.Tensor)
        whole = runner(image(), 2)
        np.testing.assert_allclose(given.saliency_map, whole.saliency_map, rtol=0, atol=1e-6)


def test_what_interrupts_progress_ends_the_run(stepwise_folder: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(stepwise_folder / "stepwise.pt")(image(), progress=stop)


def test_files_of_one_run_tell_no_progress(toy_folder: Path) -> None:
    told: list[int] = []
    given = load(toy_folder / "toy.onnx")(image(), progress=lambda *steps: told.extend(steps))
    close(given, image(), [[-1]])
    assert told == []


def test_explanation_is_attributes_and_items(toy_folder: Path) -> None:
    given = load(toy_folder / "toy.onnx")(image())
    assert tuple(given) == CARD.outputs
    assert len(given) == 3
    assert given["scores"] is given.scores
    with pytest.raises(AttributeError, match="boxes"):
        given.boxes  # type: ignore[attr-defined]  # noqa: B018
    assert Explanation({"boxes": 1, "scores": 2})["boxes"] == 1


def test_runner_tells_what_it_is(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    assert runner.card == CARD
    assert runner.device == "cpu"


def test_package_exports() -> None:
    assert camcore.adapters.load is load
    assert camcore.adapters.Explanation is Explanation


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (image()[0], r"float32 \(3, 8, 9\); expected float32 \(B, 3, H, W\); add the batch axis"),
        (image().astype(np.float64), r"float64 .*; expected float32"),
        (image().transpose(0, 2, 3, 1), r"\(2, 8, 9, 3\); expected float32 \(B, 3, H, W\)"),
        (image()[:, :1], r"\(2, 1, 8, 9\); expected"),
        (image()[:, :, :0], "which is empty"),
        (image(0), "which is empty"),
        ([[1.0]], "image is list; expected float32"),
        (None, "image is NoneType"),
        (np.full((1, 3, 4, 4), np.nan, np.float32), "holds NaN or infinity"),
        (np.full((1, 3, 4, 4), -np.inf, np.float32), "holds NaN or infinity"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.float16), "image is float16"),
    ],
)
def test_wrong_images(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_image(given, SPEC)


def test_fixed_size(fixed_size_onnx: Path) -> None:
    runner = load(fixed_size_onnx)
    assert runner(image(1, 24, 32)).saliency_map.shape == (1, 1, 24, 32)
    with pytest.raises(InputError, match=r"expected float32 \(B, 3, 24, 32\); .*prepare resizes"):
        runner(image(1, 32, 24))


def pixels(batch: int = 2, height: int = 8, width: int = 9, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def normalised(given: NDArray[np.uint8]) -> NDArray[np.float32]:
    scaled = (given / 255 - CARD.image.mean) / CARD.image.std
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_preprocessing_in_the_graph(uint8_folder: Path, suffix: str) -> None:
    runner = load(uint8_folder / f"toy{suffix}")
    assert runner.card.image.dtype == "uint8"
    for images in (pixels(), pixels(3, 16, 12, seed=1), pixels()[:, ::2, ::-1]):
        close(runner(images, [3, -1]), normalised(images), [[3, -1]])
        tensor = torch.from_numpy(images.copy())
        given = runner(tensor, [3, -1])
        assert isinstance(given.saliency_map, torch.Tensor)
        close(given, normalised(images), [[3, -1]])
    strided = torch.from_numpy(pixels()).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    close(runner(strided), normalised(pixels()), [[-1]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            image(),
            r"float32 \(2, 3, 8, 9\); expected uint8 \(B, H, W, 3\); the file scales and "
            "normalises by itself, it wants pixels from 0 to 255",
        ),
        (pixels() / 255, "float64 .*; expected uint8"),
        (pixels().astype(np.int8), "int8 .*; expected uint8"),
        (
            pixels().transpose(0, 3, 1, 2),
            r"\(2, 3, 8, 9\); expected uint8 \(B, H, W, 3\); the channels stand elsewhere: take "
            r"the axes in the order \(0, 2, 3, 1\)",
        ),
        (pixels()[0], r"\(8, 9, 3\); expected uint8 \(B, H, W, 3\); add the batch axis"),
        (pixels()[..., :1], r"\(2, 8, 9, 1\); expected uint8 \(B, H, W, 3\)$"),
        (pixels(0), "which is empty"),
        (torch.zeros(1, 3, 4, 4), r"float32 \(1, 3, 4, 4\); expected uint8"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "the channels stand elsewhere"),
    ],
)
def test_wrong_images_where_the_graph_prepares(
    uint8_folder: Path, given: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(uint8_folder / "toy.onnx")(given)


def test_uint8_pixels_for_a_graph_that_wants_them_prepared() -> None:
    with pytest.raises(
        InputError,
        match=r"uint8 \(2, 8, 9, 3\); expected float32 \(B, 3, H, W\); .*prepare scales and norm",
    ):
        check_image(pixels(), SPEC)
    with pytest.raises(InputError, match=r"take the axes in the order \(0, 3, 1, 2\)"):
        check_image(pixels().astype(np.float32), SPEC)


def test_fixed_size_where_the_graph_prepares() -> None:
    spec = ImageSpec(8, 9, dtype="uint8")
    assert check_image(pixels(5), spec) == 5
    with pytest.raises(InputError, match=r"expected uint8 \(B, 8, 9, 3\); .*prepare resizes"):
        check_image(pixels(5, 9, 8), spec)


@pytest.mark.parametrize(
    ("class_ids", "message"),
    [
        (4, "hold 4; expected integers from -1 to 3"),
        ([0, -2], "hold -2"),
        (1.0, "hold float64"),
        (True, "hold bool"),
        (["dog"], "hold <U3"),
        ([], r"shape \(0,\); K must be from 1 to the 4 classes"),
        ([0, 1, 2, 3, 0], "K must be from 1 to the 4 classes"),
        ([[0], [1], [2]], r"shape \(3, 1\)"),
        ([[[0]]], r"shape \(1, 1, 1\)"),
        ([[0], [1, 2]], "cannot become a NumPy array"),
    ],
)
def test_wrong_class_ids(class_ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_class_ids(class_ids, batch=2, num_classes=4)


class OnlyDLPack:
    """An array of a library that NumPy knows nothing of."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


LIBRARIES = {
    "numpy": np.asarray,
    "torch": torch.tensor,
    "strict": array_api_strict.asarray,
    "dlpack": lambda ids: OnlyDLPack(np.asarray(ids)),
    "dlpack of torch": lambda ids: OnlyDLPack(torch.tensor(ids)),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_class_ids_of_any_library(toy_folder: Path, library: str) -> None:
    array = LIBRARIES[library]
    runner = load(toy_folder / "toy.onnx")
    close(runner(image(), array([[3, -1], [0, 1]])), image(), [[3, -1], [0, 1]])
    close(runner(torch.from_numpy(image()), array(2)), image(), [[2]])
    for outside in (-2, 4, 2**31 - 1, -(2**31)):
        for ids in (outside, [0, outside], [[0], [outside]]):
            with pytest.raises(InputError, match=rf"hold {outside}; expected integers from -1 to"):
                runner(image(), array(ids))
    with pytest.raises(InputError, match="class_ids hold float"):
        runner(image(), array([1.0]))
    with pytest.raises(InputError, match="class_ids hold bool"):
        runner(image(), array([True]))
    with pytest.raises(InputError, match=r"shape \(3, 1\)"):
        runner(image(), array([[0], [1], [2]]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_class_ids_outside_reach_no_format(toy_folder: Path, suffix: str) -> None:
    for ids in (torch.tensor([[0], [-2]]), OnlyDLPack(np.array([4]))):
        with pytest.raises(InputError, match="expected integers from -1 to 3"):
            load(toy_folder / f"toy{suffix}")(image(), ids)  # type: ignore[arg-type]


def table(batch: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((batch, 2), dtype=np.float32)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_further_inputs_by_position_and_by_name(with_table_folder: Path, suffix: str) -> None:
    runner = load(with_table_folder / f"table{suffix}")
    model = build_with_table().eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(image()), torch.from_numpy(table()))
    given = runner(image(), table(), [2, -1])
    assert tuple(given) == ("embedding", "logits", "classes", "saliency_map")
    for name, value in expected.items():
        np.testing.assert_allclose(given[name], value.numpy(), rtol=1e-4, atol=1e-6)
    best = expected["logits"].argsort(descending=True)[:, 1]
    np.testing.assert_array_equal(given.classes, [[2, best[0]], [2, best[1]]])
    assert given.saliency_map.shape == (2, 2, 8, 9)
    tensors = torch.from_numpy(image()), torch.from_numpy(table()[:, ::-1].copy()).flip(1)
    for again in (
        runner(image(), table(), class_ids=[2, -1]),
        runner(image(), table=table(), class_ids=[2, -1]),
        runner(image(), [2, -1], table=table()[:, ::-1][:, ::-1]),
        runner(image=image(), table=table(), class_ids=[2, -1]),
        runner(tensors[0], tensors[1], torch.tensor([2, -1])),
    ):
        for name in given:
            np.testing.assert_allclose(np.asarray(again[name]), given[name], rtol=1e-5, atol=1e-6)
    assert not np.allclose(runner(image(), 0 * table())["logits"], given["logits"], atol=1e-3)
    np.testing.assert_array_equal(runner(image(1), table(1)).classes.shape, (1, 1))


@pytest.mark.parametrize(
    ("others", "named", "message"),
    [
        (
            (),
            {},
            "0 inputs were given behind image and 0 by name; the file takes image, table, ",
        ),
        (([0],), {}, r"table is list; expected an array of the image's library with 2 rows"),
        ((None,), {}, "table is NoneType"),
        ((torch.zeros(2, 2),), {}, "table is Tensor; expected an array of the image's library"),
        ((table(3),), {}, r"table is float32 \(3, 2\); expected .* 2 rows, as image has"),
        ((np.float32(1),), {}, r"table is float32 \(\); expected"),
        ((np.array(1.0),), {}, r"table is float64 \(\); expected"),
        ((table() * np.nan,), {}, "table is float32 .* holds NaN or infinity"),
        ((table(), 0, 1), {}, "3 inputs were given behind image"),
        ((table(), 0), {"class_ids": 0}, "2 inputs were given behind image"),
        ((table(), 0), {"table": table()}, "2 inputs were given behind image and 1 by name"),
        ((), {"tables": table()}, "unknown input 'tables'; nearest: table"),
        ((table()[:, :1],), {}, r"failed on an image of shape .*, table of shape \(2, 1\)"),
    ],
)
def test_wrong_further_inputs(
    with_table_folder: Path, others: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError if "unknown" not in message else UnknownNameError, match=message):
        load(with_table_folder / "table.onnx")(image(), *others, **named)


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_a_mask_of_truth_values_beside_the_image(
    masked: Explained, masked_onnx: Path, tmp_path: Path, suffix: str
) -> None:
    model = build_with_mask().eval()
    path = masked_onnx
    if suffix != ".onnx":
        path = tmp_path / f"masked{suffix}"
        save(masked, path)
    runner = load(path)
    tensor = torch.from_numpy(image())
    kept = torch.tensor([[True, False, True, True], [False, True, True, False]])
    with torch.no_grad():
        expected = model(tensor, kept)
    for given in (runner(tensor, kept), runner(image(), kept.numpy())):
        np.testing.assert_allclose(np.asarray(given.scores), expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(runner(tensor, ~kept).scores, expected, atol=1e-3)


def test_what_was_copied_lives_until_the_run_is_over(
    masked_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime looks at a NumPy array's memory, and does not keep the array."""
    made: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    original, stoppable = onnxruntime.OrtValue.ortvalue_from_numpy, runner_module._stoppable

    def noted(array: NDArray[Any]) -> Any:
        made.append(weakref.ref(array))
        return original(array)

    def checked(run: Any) -> Any:
        alive.extend(each() is not None for each in made)
        return stoppable(run)

    run = load(masked_onnx)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", noted)
    monkeypatch.setattr(runner_module, "_stoppable", checked)
    run(torch.from_numpy(image()), torch.ones(2, 4, dtype=torch.bool))
    assert alive == [True, True]  # the mask, and the ids of classes


def test_inputs_that_a_file_does_not_have(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    with pytest.raises(
        InputError, match=r"2 inputs were given behind image.*takes image, class_ids"
    ):
        runner(image(), table(), 0)
    with pytest.raises(UnknownNameError, match="unknown input 'table'"):
        runner(image(), table=table())


def test_further_input_on_another_device(
    with_table_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([(1, 0), (2, 0)])
    monkeypatch.setattr(torch.Tensor, "__dlpack_device__", lambda self: next(asked))
    with pytest.raises(InputError, match=r"table lies on CUDA.*or move table"):
        load(with_table_folder / "table.onnx")(torch.zeros(2, 3, 8, 9), torch.zeros(2, 2))


def test_segmentation_in_onnxruntime(segmenter_folder: Path) -> None:
    runner = load(segmenter_folder / "image.onnx")
    given = runner(image(2, 40, 36), [2, -1, -1])
    with torch.no_grad():
        expected = build_segmenter().eval()(torch.from_numpy(image(2, 40, 36)))
    np.testing.assert_allclose(given["out"], expected["out"].numpy(), rtol=1e-4, atol=1e-5)
    assert given.saliency_map.shape == (2, 3, 40, 36)
    assert class_scores(runner.card, given) is None
    assert load(segmenter_folder / "feature.onnx")(image(2, 40, 36)).saliency_map.shape[2:] == (
        10,
        9,
    )


def shaped(card: Card, **shapes: tuple[int, ...]) -> Any:
    """The scores among outputs of these shapes, of which each holds its number alone."""
    outputs = {name: np.full(shape, n) for n, (name, shape) in enumerate(shapes.items())}
    outputs |= {"classes": np.zeros((2, card.num_classes)), "saliency_map": np.zeros((2, 1, 4, 4))}
    return class_scores(replace(card, outputs=tuple(outputs)), outputs)


def test_scores_are_told_by_their_name_or_else_by_their_shape() -> None:
    assert (shaped(CARD, embedding=(2, 8), logits=(2, 4), hidden=(2, 4, 4)) == 1).all()
    assert shaped(CARD, scores=(2, 4)).shape == (2, 4)
    assert shaped(CARD, embedding=(2, 8)) is None
    assert shaped(CARD, out=(2, 4, 6, 6), aux=(2, 4, 6, 6)) is None
    assert shaped(CARD, left=(2, 4), right=(2, 4)) is None
    chosen = replace(CARD, explained="right")
    assert (shaped(chosen, left=(2, 4), right=(2, 4)) == 1).all()
    assert shaped(chosen, left=(2, 4), right=(2, 4, 6, 6)) is None
    one = replace(CARD, num_classes=1)
    assert shaped(one, scores=(2,)).shape == (2, 1)
    assert shaped(one, scores=(2, 1)).shape == (2, 1)


@pytest.mark.parametrize("target", TARGETS)
def test_scores_of_targets_whose_classes_are_the_models(target: str) -> None:
    card = replace(CARD, options={"target": target})
    assert (shaped(card, scores=(2, 4)) is None) == (target in ("binary", "segmentation"))


def test_scores_of_a_yes_or_no_are_those_of_two_classes() -> None:
    card = replace(CARD, num_classes=2, options={"target": "binary"})
    given = {"scores": np.array([[1.5], [-2.0]]), "classes": np.zeros((2, 1))}
    scores = class_scores(card, given)
    np.testing.assert_array_equal(scores, [[-1.5, 1.5], [2.0, -2.0]])
    assert scores is not None
    probabilities = class_probabilities(card, scores)
    yes = 1 / (1 + np.exp([-1.5, 2.0]))
    np.testing.assert_allclose(probabilities, np.stack([1 - yes, yes], 1), rtol=1e-12)


def test_probabilities_are_made_as_the_card_says() -> None:
    scores = np.array([[1.0, 2.0, 0.5, -900.0], [900.0, 0.0, 0.0, 0.0]])
    softmax = torch.softmax(torch.from_numpy(scores), 1).numpy()
    sigmoid = torch.sigmoid(torch.from_numpy(scores)).numpy()
    for kind, expected in ((None, softmax), ("softmax", softmax), ("sigmoid", sigmoid)):
        card = replace(CARD, probabilities=kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(class_probabilities(card, scores), expected, atol=1e-12)
    assert class_probabilities(replace(CARD, probabilities="scores"), scores) is scores
    assert class_probabilities(replace(CARD, probabilities="none"), scores) is None
    assert class_probabilities(replace(CARD, options={"target": "value"}), scores) is None


def test_repr_says_what_there_is(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    assert repr(runner) == (
        "<Runner: gradcam of toy at features, 4 classes, on cpu; call it with float32 (B, 3, H, W)>"
    )
    assert repr(runner(image(), [2, -1])) == (
        "<Explanation: scores float32 (2, 4), classes int64 (2, 2) [[2, 3], [2, 3]], "
        "saliency_map float32 (2, 2, 8, 9)>"
    )
    assert "saliency_map float32 (1, 1, 8, 9)" in repr(runner(torch.from_numpy(image(1))))


def test_scores_of_a_target_of_ones_own() -> None:
    assert shaped(replace(CARD, options={"target": "ratio"}), scores=(2, 4)) is None


SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
INSIDE, AROUND = st.integers(-1, 3), st.integers(-3, 5)


@hypothesis.given(st.one_of(hnp.arrays(np.int64, SHAPES, elements=e) for e in (INSIDE, AROUND)))
def test_class_ids_are_accepted_or_refused_but_never_changed(ids: NDArray[np.int64]) -> None:
    fits = ids.ndim < 2 or (ids.ndim == 2 and ids.shape[0] in (1, 2))
    fits = fits and 1 <= (ids.shape[-1] if ids.ndim else 1) <= 4 and ids.size > 0
    if fits and ids.min() >= -1 and ids.max() <= 3:
        np.testing.assert_array_equal(check_class_ids(ids, 2, 4), np.atleast_2d(ids))
    else:
        with pytest.raises(InputError, match="class_ids"):
            check_class_ids(ids, 2, 4)


def test_class_ids_that_want_gradients_or_lie_elsewhere() -> None:
    for ids in (torch.tensor([1.0], requires_grad=True), torch.tensor([1], device="meta")):
        with pytest.raises(InputError, match="cannot become a NumPy array"):
            check_class_ids(ids, 2, 4)


def test_graph_failure_is_an_input_error(tmp_path: Path) -> None:
    """The card promises any size where the graph, here on purpose, does not."""
    card = replace(CARD, image=replace(CARD.image, channels=5))
    runner = load(write_toy(tmp_path / "wrong.onnx", card))
    with pytest.raises(InputError, match=r"the graph failed on an image of shape \(1, 5, 8, 9\)"):
        runner(np.zeros((1, 5, 8, 9), np.float32))


def test_class_index() -> None:
    assert class_index(CARD, "boxer") == 2
    assert class_index(CARD, "Boxer") == 2
    assert class_index(CARD, "1") == 1
    assert class_index(CARD, "42") == 3  # a name before an index
    with pytest.raises(UnknownNameError, match=r"unknown class 'boxr'; nearest: boxer.*0 to 3"):
        class_index(CARD, "boxr")
    with pytest.raises(UnknownNameError, match=r"classes are 0 to 3"):
        class_index(CARD, "4")
    with pytest.raises(UnknownNameError, match="carries no class names"):
        class_index(replace(CARD, class_names=None), "boxer")


def test_class_name_of_several_classes() -> None:
    card = replace(CARD, class_names=("crane", "dog", "Crane", "crane"))
    assert class_index(card, "Crane") == 2  # as it is written
    assert class_index(card, "DOG") == 1
    assert class_index(card, "3") == 3
    with pytest.raises(InputError, match="2 classes are called 'crane': give an index, 0, 3"):
        class_index(card, "crane")
    with pytest.raises(InputError, match="3 classes are called 'CRANE': give an index, 0, 2, 3"):
        class_index(card, "CRANE")


def test_unknown_device(toy_folder: Path) -> None:
    with pytest.raises(InputError, match="expected 'cpu' or 'cuda'"):
        load(toy_folder / "toy.onnx", "tpu")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_silent_fallback_to_the_cpu(toy_folder: Path, suffix: str) -> None:
    with pytest.raises(InputError, match="device is 'cuda', but"):
        load(toy_folder / f"toy{suffix}", "cuda")


def test_cuda_that_does_not_start_is_an_error(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu without a driver: the provider is listed, the session comes without it."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime.InferenceSession
    asked = []

    def session(path: Path, options: Any, providers: list[str], **rest: Any) -> Any:
        asked.append((providers, rest))
        return real(path, options, ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(InputError, match="onnxruntime could not start CUDA"):
        load(toy_folder / "toy.onnx", "cuda")
    assert asked == [(["CUDAExecutionProvider", "CPUExecutionProvider"], {"enable_fallback": 0})]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cuda_in_cuda_out(toy_folder: Path, suffix: str) -> None:
    runner = load(toy_folder / f"toy{suffix}", "cuda")
    given = runner(torch.from_numpy(image()).cuda(), [1, -1])
    assert all(array.is_cuda for array in given.values())
    close(Explanation({name: array.cpu() for name, array in given.items()}), image(), [[1, -1]])
    close(runner(image()), image(), [[-1]])
    with pytest.raises(InputError, match="the file was loaded on the CPU"):
        load(toy_folder / f"toy{suffix}")(torch.from_numpy(image()).cuda())


@pytest.mark.parametrize(
    ("kind", "message"), [(2, "lies on CUDA, the file was loaded on the CPU"), (8, "type 8")]
)
def test_images_on_another_device(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: int, message: str
) -> None:
    tensor = torch.from_numpy(image())
    monkeypatch.setattr(torch.Tensor, "__dlpack_device__", lambda self: (kind, 0))
    with pytest.raises(InputError, match=message):
        load(toy_folder / "toy.onnx")(tensor)


def test_loading_the_graph_fails_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed file of an onnx version that this onnxruntime does not know."""

    model = onnx.load_from_string(onnx_content())
    model.opset_import[0].version = 999
    path = tmp_path / "future.onnx"
    path.write_bytes(seal_onnx(model.SerializeToString()))
    with pytest.raises(FileError, match=r"onnxruntime .* cannot load the file"):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_that_is_replaced_while_it_is_loaded(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The graph must come from the file whose seal was checked."""
    path = tmp_path / f"toy{suffix}"
    shutil.copyfile(toy_folder / path.name, path)
    assert load(path).card == CARD

    def read_then_replace(given: Path) -> Card:
        card = read_card(given)
        shutil.copyfile(toy_folder / path.name, tmp_path / "new").replace(path)
        return card

    monkeypatch.setattr("camcore.adapters.runner.read_card", read_then_replace)
    with pytest.raises(FileError, match="was changed while it was loaded; load it again"):
        load(path)


def test_names_that_no_runtime_opens(toy_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy\udcff.onnx"
    shutil.copyfile(toy_folder / "toy.onnx", path)
    assert read_card(path) == CARD
    with pytest.raises(FileError, match="the runtimes open names in UTF-8 alone; rename it"):
        load(path)
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    with pytest.raises(FileError, match="is a pipe, which can be read but once"):
        load(pipe)


def test_missing_runtime_names_the_extra(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime.*pip install 'camcore\[run\]'"):
        load(toy_folder / "toy.onnx")


_FRESH = """
import sys
import numpy as np
from camcore.adapters import load, read_card
assert "onnxruntime" not in sys.modules
for suffix in (".onnx", ".pt", ".pt2"):
    read_card("toy" + suffix)
explanation = load("toy.onnx")(np.zeros((1, 3, 8, 8), np.float32), 2)
assert explanation.saliency_map.shape == (1, 1, 8, 8)
for needless in ("array_api_compat.numpy", "numpy.f2py", "PIL", "typer", "rich"):
    assert needless not in sys.modules, needless
from camcore.adapters.images import prepare
prepare(np.zeros((8, 8, 3), np.uint8), read_card("toy.onnx").image)
assert "cv2" not in sys.modules
import camcore.adapters.overlay, camcore.adapters.cli
for forbidden in ("torch", "onnx", "onnxscript"):
    assert forbidden not in sys.modules, forbidden
print("ran")
"""


def test_onnx_runs_without_torch_and_onnx_and_without_a_warning(toy_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FRESH],
        cwd=toy_folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ran\n", "")


# Ctrl-C.


def test_ctrl_c_ends_a_run_of_onnxruntime(endless: Path, press_ctrl_c: None) -> None:
    runner = load(endless)
    before = threading.active_count()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        runner(np.zeros((1, 3, 8, 9), np.float32))
    assert time.monotonic() - begin < 20
    # What ran has ended, and nothing goes on in the background.
    assert threading.active_count() <= before
    assert not [thread for thread in threading.enumerate() if thread.name == "camcore-run"]


def test_a_run_after_one_that_was_stopped(
    endless: Path, toy_folder: Path, press_ctrl_c: None
) -> None:
    stopped, other = load(endless), load(toy_folder / "toy.onnx")
    image = np.ones((1, 3, 8, 9), np.float32)
    with pytest.raises(KeyboardInterrupt):
        stopped(image)
    expected = reference(image, np.array([[2]]))
    np.testing.assert_allclose(other(image, 2).saliency_map, expected.saliency_map, rtol=1e-5)


def test_runs_in_other_threads(toy_folder: Path) -> None:
    """Ctrl-C comes to the main thread alone: the others run as they are."""
    runner, image = load(toy_folder / "toy.onnx"), np.ones((2, 3, 8, 9), np.float32)
    expected = runner(image, 1).saliency_map
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda n: runner(image, n % 4).saliency_map, range(1, 12, 4)):
            np.testing.assert_array_equal(found, expected)
