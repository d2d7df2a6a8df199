"""Whatever is given to `load` and to a runner: an answer, or an error of camcore's."""

import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch

from camcore.adapters import Runner, load
from camcore.errors import CamcoreError, FileError, InputError
from tests.adapters.runner.given import SUFFIXES, image


class Unwilling:
    """An array of a library that is broken."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("names", ()):
            return self.fail
        raise AttributeError(name)

    def fail(self, *arguments: Any, **options: Any) -> Any:
        raise KeyError("broken")


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
TENSOR = torch.zeros(1, 3, 8, 9)

ZOO: dict[str, Any] = {
    **{repr(each): each for each in (None, 0, 1.5, float("nan"), 1j, 10**30, -(10**30), 2**63)},
    **{repr(each): each for each in ("x", b"x", {}, {1}, [1.0], [[[[0.0]]]], [2**70], [None])},
    **{repr(each): each for each in (len, int, object, Path("x"), np.datetime64("2020"), np)},
    "decimal": decimal.Decimal(1),
    "endless": ENDLESS,
    "generator": (each for each in range(3)),
    "broken array": Unwilling("__array__"),
    "broken namespace": Unwilling("__array_namespace__"),
    "broken dlpack": Unwilling("__dlpack__", "__dlpack_device__"),
    **{
        dtype: image(1).astype(dtype)
        for dtype in ("f2", "f8", "?", "c8", "O", "U", ">f4", "i4", "u8")
    },
    "record": np.zeros(3, [("a", "f4")]),
    "scalar": np.float32(1),
    "row": np.zeros(3, np.float32),
    "empty": np.zeros((0, 3, 8, 9), np.float32),
    "no height": np.zeros((1, 3, 0, 9), np.float32),
    "nan": image(1) * np.nan,
    "largest": np.full((1, 3, 8, 9), np.finfo(np.float32).max, np.float32),
    "masked": np.ma.masked_array(image(1), image(1) > 0),
    "backwards": image(1)[:, :, ::-1, ::-1],
    "one value": np.broadcast_to(np.float32(1), (1, 3, 8, 9)),
    "fortran": np.asfortranarray(image(1)),
    "one pixel": np.zeros((1, 3, 1, 1), np.float32),
    "many": np.zeros((300, 3, 1, 1), np.float32),
    "strict": array_api_strict.asarray(image(1)),
    "gradient": torch.zeros(1, 3, 8, 9, requires_grad=True),
    "parameter": torch.nn.Parameter(TENSOR),
    "sparse": TENSOR.to_sparse(),
    "meta": TENSOR.to("meta"),
    "bfloat16": TENSOR.to(torch.bfloat16),
    "float8": TENSOR.to(torch.float8_e4m3fn),
    "conjugate": TENSOR.to(torch.complex64).conj().imag,
    "expanded": torch.zeros(1, 1, 1, 1).expand(1, 3, 8, 9),
}
PLACES: dict[str, Callable[[Runner, Any], Any]] = {
    "image": lambda run, each: run(each),
    "class_ids": lambda run, each: run(image(1), class_ids=each),
    "last": lambda run, each: run(image(1), each),
    "both": lambda run, each: run(image(1), each, 0),
    "by name": lambda run, each: run(image(1), table=each),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_raw_exception_leaves_a_runner(toy_folder: Path, suffix: str, place: str) -> None:
    run = load(toy_folder / f"toy{suffix}")
    raised = {name: raised_by(PLACES[place], run, each) for name, each in ZOO.items()}
    refused = {name: error for name, error in raised.items() if error is not None}
    assert {name for name, error in refused.items() if not isinstance(error, CamcoreError)} == set()
    assert {name for name, error in refused.items() if len(str(error)) > 1000} == set()
    assert len(refused) > len(ZOO) / 2


def raised_by(call: Callable[..., Any], *arguments: Any) -> Exception | None:
    try:
        call(*arguments)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("place", ["as table", "by name"])
def test_no_raw_exception_of_a_further_input(with_table_folder: Path, place: str) -> None:
    run = load(with_table_folder / "table.onnx")
    for name, each in ZOO.items():
        if place == "by name":
            error = raised_by(lambda each: run(image(1), table=each), each)
        else:
            error = raised_by(lambda each: run(image(1), each, 0), each)
        assert isinstance(error, CamcoreError), name


def test_what_cannot_be_looked_at_is_told() -> None:
    from camcore.adapters.runner.inputs import checked_inputs
    from tests.adapters.toy import CARD

    for name in ("sparse", "meta", "broken namespace"):
        with pytest.raises(InputError, match=r"image cannot be looked at \(.*\); expected"):
            checked_inputs(CARD, "cpu", ZOO[name], (), None, {})


def test_progress_that_is_no_function(stepwise_folder: Path) -> None:
    run = load(stepwise_folder / "stepwise.onnx")
    with pytest.raises(InputError, match="progress is int; expected a function"):
        run(image(), progress=3)  # type: ignore[arg-type]

    def fail(done: int, total: int) -> None:
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        run(image(), progress=fail)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (None, InputError),
        (b"x.onnx", InputError),
        (3, InputError),
        ([], InputError),
        ("", FileError),
        ("a\0.onnx", FileError),
        ("x" * 5000 + ".onnx", FileError),
        ("none/../none.onnx", FileError),
        ("/dev/zero", FileError),
    ],
)
def test_no_raw_exception_leaves_load(path: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        load(path)


def test_a_device_is_no_file(tmp_path: Path) -> None:
    link = tmp_path / "zero.onnx"
    link.symlink_to("/dev/zero")
    with pytest.raises(FileError, match="is a device or a socket"):
        load(link)
