"""Class selection against a sorted list."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import camcore
from tests.backends import Backend


@given(data=st.data())
def test_equals_sorting(backend: Backend, data: st.DataObject) -> None:
    batch, classes = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 6))
    k = data.draw(st.integers(0, classes))
    rows = data.draw(st.sampled_from([1, batch]))
    dtype = data.draw(st.sampled_from(sorted(backend.dtypes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    scores = np.stack([rng.permutation(classes) for _ in range(batch)] or [np.zeros(classes)])[
        :batch
    ]
    ids = np.where(rng.random((rows, k)) < 0.5, -1, rng.integers(0, classes, (rows, k)))

    expected = np.zeros((batch, k), dtype=np.int64)
    for b in range(batch):
        ranking = sorted(range(classes), key=lambda c, b=b: -scores[b, c])
        for column in range(k):
            asked = ids[b if rows > 1 else 0, column] if len(ids) else -1
            expected[b, column] = ranking[column] if asked == -1 else asked
    actual = camcore.select_classes(backend.array(scores, dtype), backend.array(ids))
    backend.assert_close(actual, expected, "int64")


def test_all_minus_one_is_the_top_k(backend: Backend) -> None:
    scores = backend.array([[0.1, 0.7, 0.2], [0.5, -0.4, 0.6]])
    top = camcore.select_classes(scores, backend.array([[-1, -1]]))
    backend.assert_close(top, [[1, 2], [2, 0]], "int64")


def test_without_leading_axes_and_with_several(backend: Backend) -> None:
    scores = np.random.default_rng(0).normal(size=(2, 3, 4))
    one = camcore.select_classes(backend.array(scores[0, 0]), backend.array([-1]))
    backend.assert_close(one, [scores[0, 0].argmax()], "int64")
    several = camcore.select_classes(backend.array(scores), backend.array([-1]))
    backend.assert_close(several, scores.argmax(-1)[..., None], "int64")


def test_of_equal_scores_the_lower_class_comes_first(backend: Backend) -> None:
    top = camcore.select_classes(backend.array(np.zeros((1, 50))), backend.array([[-1] * 50]))
    if backend.name == "torch":  # no order promised, but each class once
        assert sorted(backend.numpy(top)[0]) == list(range(50))
    else:
        backend.assert_close(top, [list(range(50))], "int64")


def test_wrong_types_and_shapes_are_refused(backend: Backend) -> None:
    scores, ids = backend.array(np.ones((2, 3))), backend.array([[-1]])
    with pytest.raises(camcore.InputError, match=r"integer class ids, got .*float32 and .*float32"):
        camcore.select_classes(scores, scores)
    with pytest.raises(camcore.InputError, match=r"floating-point scores.*int64 and .*int64"):
        camcore.select_classes(ids, ids)
    with pytest.raises(camcore.InputError, match=r"K at most N.*got \(2, 3\) and \(1, 4\)"):
        camcore.select_classes(scores, backend.array([[-1] * 4]))
    with pytest.raises(camcore.InputError, match=r"got \(2, 3\) and \(3, 1\)"):
        camcore.select_classes(scores, backend.array([[-1]] * 3))
    with pytest.raises(camcore.InputError, match=r"got \(2, 3\) and \(\)"):
        camcore.select_classes(scores, backend.array(-1))
