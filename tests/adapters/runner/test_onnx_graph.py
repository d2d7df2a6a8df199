import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from camcore.adapters.runner import load, onnx_graph
from camcore.errors import FileError, InputError
from camcore.seal import seal_onnx
from tests.adapters.runner.given import image
from tests.adapters.toy import onnx_content, reference


def test_what_was_copied_lives_until_the_run_is_over(
    masked_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime looks at a NumPy array's memory, and does not keep the array."""
    made: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    original, stoppable = onnxruntime.OrtValue.ortvalue_from_numpy, onnx_graph._stoppable

    def noted(array: NDArray[Any]) -> Any:
        made.append(weakref.ref(array))
        return original(array)

    def checked(run: Any) -> Any:
        alive.extend(each() is not None for each in made)
        return stoppable(run)

    run = load(masked_onnx)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", noted)
    monkeypatch.setattr(onnx_graph, "_stoppable", checked)
    run(torch.from_numpy(image()), torch.ones(2, 4, dtype=torch.bool))
    assert alive == [True, True]  # the mask, and the ids of classes


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


def test_loading_the_graph_fails_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed file of an onnx version that this onnxruntime does not know."""

    model = onnx.load_from_string(onnx_content())
    model.opset_import[0].version = 999
    path = tmp_path / "future.onnx"
    path.write_bytes(seal_onnx(model.SerializeToString()))
    with pytest.raises(FileError, match=r"onnxruntime .* cannot load .*future.onnx"):
        load(path)


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
