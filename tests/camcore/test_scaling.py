"""Scaling kernels against plain loops, OpenCV and eager torch, and their own laws."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

import camcore
from tests.backends import Backend
from tests.camcore import references
from tests.camcore.strategies import maps

sizes = st.integers(1, 40)


@given(data=st.data())
def test_normalize_equals_the_equation(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(maps(backend))
    eps = data.draw(st.sampled_from([1e-7, 1e-2]))
    space = case.values.shape[-case.spatial_ndim :]
    expected = references.for_each_map(
        lambda raw: references.normalize(raw, eps), case.values, case.spatial_ndim, space
    )
    actual = camcore.normalize(case.array(backend), spatial_ndim=case.spatial_ndim, eps=eps)
    backend.assert_close(actual, expected, case.dtype)


@given(data=st.data())
def test_resize_equals_the_equation(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(maps(backend))
    size = tuple(data.draw(st.integers(1, 9)) for _ in range(case.spatial_ndim))
    expected = references.for_each_map(
        lambda raw: references.resize(raw, size), case.values, case.spatial_ndim, size
    )
    backend.assert_close(camcore.resize(case.array(backend), size), expected, case.dtype)


@given(data=st.data())
def test_postprocess_equals_the_equation(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(maps(backend))
    space = case.values.shape[-case.spatial_ndim :]
    size = data.draw(st.sampled_from([None, tuple(2 * length + 1 for length in space)]))
    expected = references.for_each_map(
        lambda raw: references.postprocess(raw, size), case.values, case.spatial_ndim, size or space
    )
    actual = camcore.postprocess(case.array(backend), size, spatial_ndim=case.spatial_ndim)
    backend.assert_close(actual, expected, case.dtype)
    assert backend.numpy(actual).min(initial=0) >= 0
    assert backend.numpy(actual).max(initial=0) <= 1


@given(old=st.tuples(sizes, sizes), new=st.tuples(sizes, sizes), seed=st.integers(0, 1000))
def test_resize_equals_opencv(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    image = np.random.default_rng(seed).random(old, dtype=np.float32)
    expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(camcore.resize(image, new), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("mode", ["linear", "bilinear", "trilinear"])
@given(data=st.data())
def test_resize_equals_torch(mode: str, data: st.DataObject) -> None:
    rank = ["linear", "bilinear", "trilinear"].index(mode) + 1
    old = [data.draw(st.integers(1, 12)) for _ in range(rank)]
    new = tuple(data.draw(st.integers(1, 12)) for _ in range(rank))
    torch.manual_seed(0)
    maps = torch.rand(2, 3, *old, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(maps, new, mode=mode, align_corners=False)
    torch.testing.assert_close(camcore.resize(maps, new), expected)


def test_resize_is_exact_for_large_sizes() -> None:
    """float32 positions would be off by 1e-4 here; whole numbers are not."""
    line = np.random.default_rng(0).random(3001)
    expected = references.resize(line, (4099,))
    actual = camcore.resize(line.astype(np.float32), (4099,))
    np.testing.assert_allclose(actual, expected, atol=3e-7)


def test_resize_to_the_same_size_changes_nothing(backend: Backend) -> None:
    values = backend.rounded(np.random.default_rng(0).normal(size=(2, 5, 7)), "float32")
    backend.assert_close(camcore.resize(backend.array(values), (5, 7)), values, "float32")


def test_an_axis_that_keeps_its_size_costs_no_product() -> None:
    def products(*size: int) -> int:
        graph = make_fx(lambda maps: camcore.resize(maps, size))(torch.zeros(2, 5, 7)).graph
        targets = [str(node.target) for node in graph.nodes]
        return sum(target.startswith(("aten.mm", "aten.bmm")) for target in targets)

    assert products(5, 7) == 0
    assert products(9, 7) == products(5, 9) == 1
    assert products(7, 5) == 2


@given(data=st.data())
def test_a_batch_gives_what_its_maps_give(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(maps(backend))
    size = (7,) * case.spatial_ndim
    batch = backend.numpy(
        camcore.postprocess(case.array(backend), size, spatial_ndim=case.spatial_ndim)
    )
    leading = case.values.shape[: case.values.ndim - case.spatial_ndim]
    for each in references.indices(leading):
        one = backend.array(case.values[each], case.dtype)
        actual = camcore.postprocess(one, size, spatial_ndim=case.spatial_ndim)
        backend.assert_close(actual, batch[each], case.dtype)


@given(data=st.data())
def test_scale_and_offset_do_not_matter(backend: Backend, data: st.DataObject) -> None:
    values = np.random.default_rng(data.draw(st.integers(0, 1000))).normal(size=(2, 4, 5))
    scale, offset = data.draw(st.floats(0.5, 1000)), data.draw(st.floats(-10, 10))
    plain = camcore.normalize(backend.array(values, "float64"))
    moved = camcore.normalize(backend.array(values * scale + offset, "float64"))
    # Not exactly: the eps of 1e-7 is absolute.
    backend.assert_close(moved, backend.numpy(plain), "float64", tolerance=3e-7)
    plain = camcore.postprocess(backend.array(values, "float64"), (9, 9))
    scaled = camcore.postprocess(backend.array(values * scale, "float64"), (9, 9))
    backend.assert_close(scaled, backend.numpy(plain), "float64", tolerance=3e-7)


@pytest.mark.parametrize("constant", [0.0, 1.0, -1.0, 1e30])
def test_a_constant_map_becomes_zeros(backend: Backend, constant: float) -> None:
    maps = backend.array(np.full((2, 3, 4), constant))
    backend.assert_close(camcore.normalize(maps), np.zeros((2, 3, 4)), "float32")
    backend.assert_close(camcore.postprocess(maps, (6, 8)), np.zeros((2, 6, 8)), "float32")


def test_one_point_and_no_map_at_all(backend: Backend) -> None:
    point = backend.array([[[5.0]]])
    backend.assert_close(camcore.normalize(point), [[[0.0]]], "float32")
    backend.assert_close(camcore.resize(point, (2, 3)), np.full((1, 2, 3), 5.0), "float32")
    empty = backend.array(np.zeros((0, 3, 4)))
    backend.assert_close(camcore.postprocess(empty, (6, 8)), np.zeros((0, 6, 8)), "float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nonfinite_map_is_nan_throughout_and_alone(backend: Backend, bad: float) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    kernels = (
        camcore.normalize,
        lambda maps: camcore.resize(maps, (8, 9)),
        lambda maps: camcore.postprocess(maps, (8, 9)),
        lambda maps: camcore.postprocess(maps, None),
        lambda maps: camcore.postprocess(maps, None, normalize=False),
    )
    expected = [backend.numpy(kernel(backend.array(values))) for kernel in kernels]
    values[1, 2, 3] = bad
    for kernel, clean in zip(kernels, expected, strict=True):
        clean[1] = np.nan
        with np.errstate(invalid="ignore"):
            actual = kernel(backend.array(values))
        backend.assert_close(actual, clean, "float32")


def test_relu_and_normalize_can_be_left_out(backend: Backend) -> None:
    values = np.asarray([[-4.0, 0.0], [2.0, 4.0]])
    maps = backend.array(values)
    raw = camcore.postprocess(maps, None, relu=False, normalize=False)
    backend.assert_close(raw, values, "float32")
    rectified = camcore.postprocess(maps, None, normalize=False)
    backend.assert_close(rectified, [[0.0, 0.0], [2.0, 4.0]], "float32")
    scaled = camcore.postprocess(maps, None, relu=False)
    backend.assert_close(scaled, [[0.0, 0.5], [0.75, 1.0]], "float32")


def test_wrong_shapes_and_sizes_are_refused(backend: Backend) -> None:
    maps = backend.array(np.ones((2, 3, 4)))
    with pytest.raises(camcore.InputError, match=r"4 spatial axes.*got \(2, 3, 4\)"):
        camcore.normalize(maps, spatial_ndim=4)
    with pytest.raises(camcore.InputError, match=r"none of them empty; got \(2, 0, 4\)"):
        camcore.normalize(backend.array(np.ones((2, 0, 4))))
    with pytest.raises(camcore.InputError, match=r"positive integers, got \(0, 4\)"):
        camcore.resize(maps, (0, 4))
    with pytest.raises(camcore.InputError, match=r"0 spatial axes"):
        camcore.resize(maps, ())
    with pytest.raises(camcore.InputError, match=r"2 positive integers, got \(4,\)"):
        camcore.postprocess(maps, (4,))
    with pytest.raises(camcore.InputError, match=r"floating-point arrays, got .*int64"):
        camcore.postprocess(backend.array([[1, 2], [3, 4]]), (4, 4))


HOW: dict[Any, Any] = {"mean": np.mean, "product": np.prod, "sum": np.sum, "max": np.max}


@given(data=st.data())
def test_aggregate_equals_the_equation(backend: Backend, data: st.DataObject) -> None:
    case = data.draw(maps(backend))
    layers = data.draw(st.integers(1, 4))
    stack = np.stack(
        [backend.rounded(case.values * (n + 1) - n, case.dtype) for n in range(layers)]
    )
    arrays = [backend.array(each, case.dtype) for each in stack]
    for how, function in HOW.items():
        expected = function(stack, axis=0)
        with np.errstate(over="ignore"):
            actual = camcore.aggregate(arrays, how=how)
        backend.assert_close(actual, expected, case.dtype)


def test_aggregate_refuses_what_does_not_fit(backend: Backend) -> None:
    square = backend.array(np.ones((2, 4, 4)))
    with pytest.raises(camcore.InputError, match="at least one layer"):
        camcore.aggregate([])
    for other in (np.ones((2, 4, 5)), np.ones((4, 4)), np.ones((1, 4, 4))):
        with pytest.raises(camcore.InputError, match=r"one shape.*\(2, 4, 4\) and \("):
            camcore.aggregate([square, backend.array(other)])
    with pytest.raises(camcore.InputError, match="one of mean, product, sum, max, got 'median'"):
        camcore.aggregate([square], how="median")  # type: ignore[arg-type]
    with pytest.raises(camcore.InputError, match="floating-point"):
        camcore.aggregate([backend.array([[1]])])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (224, r"a size as in \(7, 7\), got 224; for a square give \(224, 224\)"),
        ("224", "a size as in"),
        ((2.5, 3), r"a size of integers, got \(2.5, 3\)"),
        ((None, 3), "a size of integers"),
    ],
)
def test_sizes_that_are_none(size: Any, message: str) -> None:
    """Whatever asks for one."""
    ones = np.ones((1, 7, 7))
    for asked in (
        lambda: camcore.resize(ones, size),
        lambda: camcore.postprocess(ones, size),
        lambda: camcore.score_masks(ones, size),
    ):
        with pytest.raises(camcore.InputError, match=message):
            asked()
    with pytest.raises(camcore.InputError, match="got None"):
        camcore.resize(ones, None)  # type: ignore[arg-type]
    for name, grid in (
        ("grid", lambda: camcore.tokens_to_grid(np.ones((5, 3)), size)),
        ("shape", lambda: camcore.reciprocam(np.ones(4), size)),
        ("shape", lambda: camcore.uniform_noise(np.ones(4), size)),
    ):
        with pytest.raises(camcore.InputError, match=f"expected a {name} "):
            grid()


def test_maps_of_layers_are_a_list() -> None:
    with pytest.raises(camcore.InputError, match="a list of maps, one a layer, got int"):
        camcore.aggregate(5)  # type: ignore[arg-type]
