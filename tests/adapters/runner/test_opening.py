"""How a file is opened: options, and again in other processes."""

import copy
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from camcore.adapters import load
from camcore.adapters.runner import Runner
from camcore.errors import CamcoreError, FileError, InputError, UnknownNameError
from tests.adapters.runner.given import SUFFIXES, close, image
from tests.adapters.toy import CARD, UINT8_CARD, write_toy

HERE = ["CPUExecutionProvider"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_runner_is_sent_and_opens_the_file_again(toy_folder: Path, suffix: str) -> None:
    runner = load(toy_folder / f"toy{suffix}", threads=1)
    sent = pickle.dumps(runner)
    assert len(sent) < 1000  # the path, not the file
    for other in (pickle.loads(sent), copy.copy(runner)):
        assert other.card == runner.card
        close(other(image(), [2, -1]), image(), [[2, -1]])


def test_another_process_with_another_folder(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_folder)
    runner = load("toy.onnx")
    monkeypatch.chdir("/")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        scores = pool.submit(scores_of, runner, image()).result()
    np.testing.assert_array_equal(scores, runner(image()).scores)


def scores_of(runner: Runner, images: Any) -> Any:
    return runner(images).scores


def test_a_file_that_is_another_by_then(toy_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    shutil.copyfile(toy_folder / "toy.onnx", path)
    sent = pickle.dumps(load(path))
    write_toy(path, UINT8_CARD)
    with pytest.raises(FileError, match="is another file than the one that the runner was made of"):
        pickle.loads(sent)
    path.unlink()
    with pytest.raises(FileError, match="does not exist"):
        pickle.loads(sent)


def test_what_cannot_be_sent(toy_folder: Path) -> None:
    runner = load(toy_folder / "toy.onnx", session_options=onnxruntime.SessionOptions())
    close(runner(image()), image(), [[-1]])
    with pytest.raises(InputError, match=r"cannot be sent to another process: .*names and values"):
        pickle.dumps(runner)
    with pytest.raises(InputError, match="has no file to open again"):
        pickle.dumps(Runner(CARD, "cpu", lambda given: ()))


def test_threads_and_options_reach_onnxruntime(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    plain = onnxruntime.InferenceSession

    def session(path: Path, options: Any, providers: Any, **rest: Any) -> Any:
        asked.append((options, providers))
        return plain(path, options, providers, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    given = {"enable_cpu_mem_arena": False, "session.disable_prepacking": "1"}
    providers = [("CPUExecutionProvider", {})]
    runner = load(toy_folder / "toy.onnx", threads=2, session_options=given, providers=providers)
    for each in (runner, pickle.loads(pickle.dumps(runner))):
        close(each(image()), image(), [[-1]])
    assert len(asked) == 2
    for options, named in asked:
        assert options.intra_op_num_threads == 2
        assert options.enable_cpu_mem_arena is False
        assert options.get_session_config_entry("session.disable_prepacking") == "1"
        assert named == providers


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_threads_of_torch_are_put_back(
    toy_folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, set_to = torch.get_num_threads(), []
    plain = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (set_to.append(n), plain(n)))
    runner = load(toy_folder / f"toy{suffix}", threads=before + 1)
    close(runner(image()), image(), [[-1]])
    assert set_to == [before + 1, before]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0; expected a number from 1 to 1024"),
        ({"threads": True}, "threads is True"),
        ({"threads": "2"}, "threads is '2'"),
        ({"threads": 10**9}, "threads is 1000000000"),
        ({"providers": "CPUExecutionProvider"}, "expected a list of names"),
        ({"providers": []}, "expected a list of names"),
        ({"providers": [None]}, "providers holds None"),
        ({"providers": ["Cpu"]}, "unknown provider 'Cpu'; nearest: .*CPUExecutionProvider"),
        ({"device": "cuda", "providers": HERE}, "none of them is CUDA's"),
        ({"session_options": 3}, "session_options is int"),
        ({"session_options": {"x": 1}}, "unknown session option 'x'"),
        ({"session_options": {"intra_op_num_threads": "a"}}, "intra_op_num_threads cannot be 'a'"),
        ({"session_options": {"session.x": 3}}, "session.x cannot be 3"),
        (
            {"session_options": {"intra_op_num_threads": 2}, "threads": 1},
            "threads is 1, and session_options say it too",
        ),
        (
            {"session_options": onnxruntime.SessionOptions(), "threads": 1},
            "threads is 1, and session_options say it too",
        ),
    ],
)
def test_wrong_options(toy_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CamcoreError, match=message) as raised:
        load(toy_folder / "toy.onnx", **options)
    assert isinstance(raised.value, InputError | UnknownNameError)


@pytest.mark.parametrize("option", [{"session_options": {}}, {"providers": HERE}])
def test_options_that_torch_does_not_know(toy_folder: Path, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"are onnxruntime's, and .*toy.pt is run by torch"):
        load(toy_folder / "toy.pt", **option)
