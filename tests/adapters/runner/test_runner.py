import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

import camcore.adapters
from camcore.adapters.files import read_card, read_sealed_card
from camcore.adapters.runner import Explanation, class_scores, load
from camcore.card import Card
from camcore.errors import FileError, InputError
from camcore.export import Explained, save
from tests.adapters.nets import build_segmenter, build_with_mask, build_with_table
from tests.adapters.runner.given import SUFFIXES, close, image, normalised, pixels, table
from tests.adapters.toy import CARD, write_toy


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
def test_classes_by_their_names(toy_folder: Path, suffix: str) -> None:
    runner = load(toy_folder / f"toy{suffix}")
    name = (runner.card.class_names or ())[2]
    close(runner(image(), [name, -1]), image(), [[2, -1]])
    close(runner(image(), name), image(), [[2]])


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
        monkeypatch.setattr("camcore.adapters.runner.runner._SECONDS_OF_STEPS", seconds)
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


def test_runner_tells_what_it_is(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx")
    assert runner.card == CARD
    assert runner.device == "cpu"


def test_package_exports() -> None:
    assert camcore.adapters.load is load
    assert camcore.adapters.Explanation is Explanation


def test_fixed_size(fixed_size_onnx: Path) -> None:
    runner = load(fixed_size_onnx)
    assert runner(image(1, 24, 32)).saliency_map.shape == (1, 1, 24, 32)
    with pytest.raises(InputError, match=r"expected float32 \(B, 3, 24, 32\); .*prepare resizes"):
        runner(image(1, 32, 24))


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


def test_graph_failure_is_an_input_error(tmp_path: Path) -> None:
    """The card promises any size where the graph, here on purpose, does not."""
    card = replace(CARD, image=replace(CARD.image, channels=5))
    runner = load(write_toy(tmp_path / "wrong.onnx", card))
    with pytest.raises(InputError, match=r"the graph failed on an image of shape \(1, 5, 8, 9\)"):
        runner(np.zeros((1, 5, 8, 9), np.float32))


def test_unknown_device(toy_folder: Path) -> None:
    with pytest.raises(InputError, match="expected 'cpu' or 'cuda'"):
        load(toy_folder / "toy.onnx", "tpu")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_silent_fallback_to_the_cpu(toy_folder: Path, suffix: str) -> None:
    with pytest.raises(InputError, match="device is 'cuda', but"):
        load(toy_folder / f"toy{suffix}", "cuda")


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_file_that_is_replaced_while_it_is_loaded(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The graph must come from the file whose seal was checked."""
    path = tmp_path / f"toy{suffix}"
    shutil.copyfile(toy_folder / path.name, path)
    assert load(path).card == CARD

    def read_then_replace(given: Path) -> tuple[Card, str]:
        read = read_sealed_card(given)
        shutil.copyfile(toy_folder / path.name, tmp_path / "new").replace(path)
        return read

    monkeypatch.setattr("camcore.adapters.runner.runner.read_sealed_card", read_then_replace)
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
