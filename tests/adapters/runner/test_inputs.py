from pathlib import Path
from typing import Any

import array_api_strict
import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from camcore.adapters.runner import check_class_ids, check_image, load
from camcore.adapters.runner.inputs import checked_inputs
from camcore.card import Card, ImageSpec
from camcore.errors import InputError, UnknownNameError
from tests.adapters.runner.given import SPEC, SUFFIXES, close, image, pixels, table


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


def test_fewer_queries_than_are_explained() -> None:
    card = Card(
        method="gradcam",
        layer="top",
        image=SPEC,
        num_classes=0,
        outputs=("scores", "classes", "saliency_map"),
        inputs=("image", "queries"),
        queries=3,
        class_ids="best",
        top=2,
    )
    one, two = np.ones((1, 3), np.float32), np.ones((2, 3), np.float32)
    assert checked_inputs(card, "cpu", image(), [two], None, {}).keys() == {"image", "queries"}
    with pytest.raises(InputError, match="1 queries were given to a file that explains the 2 best"):
        checked_inputs(card, "cpu", image(), [one], None, {})
