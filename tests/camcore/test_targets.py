"""Class selection against a sorted list; what is explained of a class against its equation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import camcore
from camcore import targets
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


@given(data=st.data())
def test_queries_by_their_angle(backend: Backend, data: st.DataObject) -> None:
    """Whatever their lengths; and by inner products, with them."""
    batch, count, length = (data.draw(st.integers(1, 4)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    embeddings = rng.normal(size=(batch, length))
    queries = rng.normal(size=(data.draw(st.sampled_from([1, batch])), count, length))
    dtype = data.draw(st.sampled_from(sorted(backend.dtypes)))
    given_ = (backend.array(embeddings, dtype), backend.array(queries, dtype))
    products = np.sum(embeddings[:, None] * queries, axis=-1)
    lengths = [np.linalg.norm(each, axis=-1) for each in (embeddings[:, None], queries)]
    backend.assert_close(targets.dot(*given_), products, dtype)
    backend.assert_close(targets.similarity(*given_), products / lengths[0] / lengths[1], dtype)


def test_an_embedding_of_zeros_is_like_nothing(backend: Backend) -> None:
    queries = backend.array(np.ones((2, 3)), "float32")
    nothing = targets.similarity(backend.array(np.zeros((1, 3)), "float32"), queries)
    backend.assert_close(nothing, [[0.0, 0.0]], "float32")
    with pytest.raises(camcore.InputError, match=r"embeddings \(\.\.\., D\) and queries"):
        targets.similarity(backend.array(np.zeros((1, 4)), "float32"), queries)


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


def finer(z: np.ndarray, c: int, alpha: float = 1.0, comparisons: int = 3) -> float:
    """sum_d p_d (z_c - alpha z_d) / sum_d p_d over the classes nearest to c."""
    others = sorted((d for d in range(len(z)) if d != c), key=lambda d: abs(z[d] - z[c]))
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    nearest = others[:comparisons]
    total = sum(p[d] for d in nearest)
    return float(sum(p[d] * (z[c] - alpha * z[d]) for d in nearest) / total)


def each_row(function: Callable[[np.ndarray], Any], scores: np.ndarray) -> np.ndarray:
    return np.stack([function(row) for row in scores])


@given(data=st.data())
def test_targets_equal_their_equations(backend: Backend, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(sorted(backend.dtypes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    classes = data.draw(st.sampled_from([1, 5]))
    z = backend.rounded(rng.normal(size=(3, classes)) * 3, dtype)
    scores = backend.array(z, dtype)
    log_sums = np.log(np.exp(z).sum(-1, keepdims=True))
    backend.assert_close(targets.probability(scores), np.exp(z - log_sums), dtype)
    backend.assert_close(targets.rest(scores), 2 * z - log_sums, dtype)
    one = backend.array(z[:, :1], dtype)
    backend.assert_close(targets.binary(one), np.hstack([-z[:, :1], z[:, :1]]), dtype)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("comparisons", [1, 3, 9])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_finer_equals_its_equation(
    backend: Backend, classes: int, comparisons: int, alpha: float
) -> None:
    z = np.random.default_rng(0).normal(size=(4, classes)) * 4
    ids = np.asarray([[0, classes - 1]])
    actual = targets.finer(
        backend.array(z, "float64"), backend.array(ids), alpha=alpha, comparisons=comparisons
    )
    expected = each_row(lambda row: [finer(row, c, alpha, comparisons) for c in ids[0]], z)
    backend.assert_close(actual, expected, "float64")


def test_large_and_distant_scores_overflow_nowhere(backend: Backend) -> None:
    z = [[1000.0, 0.0, -1000.0, -1001.0, -1003.0]]
    scores = backend.array(z, "float32")
    backend.assert_close(targets.probability(scores), [[1.0, 0, 0, 0, 0]], "float32")
    expected = [2 * value - 1000 for value in z[0]]
    backend.assert_close(targets.rest(scores), [expected], "float32")
    # All probabilities that class 3 is compared by are zero in float32.
    contrast = targets.finer(scores, backend.array([[3]]), comparisons=2)
    backend.assert_close(contrast, [[finer(np.asarray([0.0, -1.0, -3.0]), 1)]], "float32")


def test_a_class_is_never_compared_with_itself(backend: Backend) -> None:
    """With three of one score, the nearest two of each are the others."""
    scores = backend.array([[2.0, 2.0, 2.0, 0.0]], "float64")
    contrast = targets.finer(scores, backend.array([[0, 1, 2]]), alpha=0.5, comparisons=2)
    backend.assert_close(contrast, [[1.0, 1.0, 1.0]], "float64")


def test_every_precision_comes_back(backend: Backend) -> None:
    for dtype in backend.dtypes:
        z = backend.rounded([[3.1, 1.7, 2.2, 0.4]], dtype)
        contrast = targets.finer(backend.array(z, dtype), backend.array([[0]]))
        backend.assert_close(contrast, [[finer(z[0], 0)]], dtype)


@pytest.mark.parametrize("name", ["probability", "rest", "finer"])
def test_targets_can_be_differentiated(name: str) -> None:
    """Finer's probabilities are differentiated too, the choice of classes is not."""
    torch.manual_seed(0)
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    arguments = (torch.tensor([[1, 4]]),) if name == "finer" else ()
    torch.autograd.gradcheck(lambda z: getattr(targets, name)(z, *arguments), (scores,))


def test_finer_equals_pytorch_grad_cam() -> None:
    model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    torch.manual_seed(0)
    scores = torch.randn(5, 10, dtype=torch.float64, requires_grad=True)
    ids = scores.detach().argmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for row, c in zip(scores, ids.tolist(), strict=True):
        main, *nearest = (row - row[c]).abs().argsort()[:4].tolist()
        total = total + model_targets.FinerWeightedTarget(main, nearest, 0.7)(row)
    (expected,) = torch.autograd.grad(total, scores)
    ours = targets.finer(scores, ids[:, None], alpha=0.7).sum()
    (actual,) = torch.autograd.grad(ours, scores)
    # The peer adds 1e-9 to the sum of the probabilities.
    torch.testing.assert_close(ours, total, rtol=1e-7, atol=0)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


def test_rest_equals_pytorch_grad_cam() -> None:
    model_targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    scores = torch.randn(5, 10, dtype=torch.float64)
    expected = model_targets.ClassifierOutputReST(4)(scores)
    torch.testing.assert_close(targets.rest(scores)[:, 4], expected)


def test_scores_that_do_not_fit_are_refused(backend: Backend) -> None:
    with pytest.raises(camcore.InputError, match=r"one score for each image.*got \(2, 2\)"):
        targets.binary(backend.array(np.ones((2, 2))))
    for function in (targets.probability, targets.rest):
        with pytest.raises(camcore.InputError, match=r"at least one class, got \(2, 0\)"):
            function(backend.array(np.ones((2, 0))))
        with pytest.raises(camcore.InputError, match="floating-point"):
            function(backend.array([[1]]))
    with pytest.raises(camcore.InputError, match=r"two classes .*got \(2, 1\) and 3"):
        targets.finer(backend.array(np.ones((2, 1))), backend.array([[0]]))
    with pytest.raises(camcore.InputError, match=r"got .* and 0"):
        targets.finer(backend.array(np.ones((2, 4))), backend.array([[0]]), comparisons=0)
    with pytest.raises(camcore.InputError, match=r"got \(2, 4\) and \(3, 1\)"):
        targets.finer(backend.array(np.ones((2, 4))), backend.array([[0]] * 3))
    with pytest.raises(camcore.InputError, match="integer class ids"):
        targets.finer(backend.array(np.ones((2, 4))), backend.array([[0.0]]))
