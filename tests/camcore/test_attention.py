"""LeGrad against loops, and against autograd through an attention."""

import numpy as np
import pytest
import torch

import camcore
from tests.backends import Backend


@pytest.mark.parametrize("prefix_tokens", [0, 1, 5])
def test_equals_the_equation(backend: Backend, prefix_tokens: int) -> None:
    rng = np.random.default_rng(0)
    tokens = prefix_tokens + 2 * 3
    G = rng.normal(size=(2, 4, tokens, tokens))
    actual = camcore.legrad(backend.array(G, "float64"), (2, 3), prefix_tokens=prefix_tokens)
    expected = np.zeros((2, 2, 3))
    for image, row, column in np.ndindex(expected.shape):
        key = prefix_tokens + 3 * row + column
        positive = [max(G[image, h, query, key], 0) for h in range(4) for query in range(tokens)]
        expected[image, row, column] = sum(positive) / len(positive)
    backend.assert_close(actual, expected, "float64")


def test_a_patch_that_raises_the_score_lights_up() -> None:
    """Keys, not queries: only what is attended to carries the value that the score sees."""
    torch.manual_seed(0)
    attention = torch.rand(1, 3, 1 + 6, 1 + 6).softmax(-1).requires_grad_()
    values = torch.zeros(1, 3, 7, 2)
    values[:, :, 1 + 4] = 1.0
    (G,) = torch.autograd.grad((attention @ values).sum(), attention)
    saliency_map = camcore.legrad(G, (2, 3))
    torch.testing.assert_close(saliency_map, torch.tensor([[[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]]))


def test_layers_and_targets_are_leading_axes(backend: Backend) -> None:
    G = np.random.default_rng(0).normal(size=(3, 2, 4, 5, 5))
    maps = camcore.legrad(backend.array(G), (2, 2))
    assert tuple(maps.shape) == (3, 2, 2, 2)
    one = camcore.legrad(backend.array(G[1, 1]), (4,))
    backend.assert_close(one, backend.numpy(maps)[1, 1].reshape(4), "float32")


def test_the_class_tokens_query_alone(backend: Backend) -> None:
    """Where no other query bears on the score, it is the same map but for the mean's divisor."""
    G = np.random.default_rng(0).normal(size=(2, 3, 7, 7))
    only = np.where(np.arange(7)[:, None] == 0, G, 0.0)
    for gradients in (G, only):
        alone = camcore.legrad(backend.array(gradients), (2, 3), queries="class")
        whole = camcore.legrad(backend.array(only), (2, 3))
        backend.assert_close(alone, 7 * backend.numpy(whole), "float32")


def test_queries_are_all_or_the_class_tokens(backend: Backend) -> None:
    G = backend.array(np.ones((2, 5, 5)))
    with pytest.raises(camcore.InputError, match="'all' or 'class', got 'cls'"):
        camcore.legrad(G, (2, 2), queries="cls")  # type: ignore[arg-type]
    with pytest.raises(camcore.InputError, match="wants a class token"):
        camcore.legrad(backend.array(np.ones((2, 4, 4))), (2, 2), prefix_tokens=0, queries="class")


def test_wrong_shapes_are_refused(backend: Backend) -> None:
    for shape in [(5, 5), (2, 5, 6)]:
        with pytest.raises(camcore.InputError, match=r"\(..., heads, T, T\), got"):
            camcore.legrad(backend.array(np.ones(shape)), (2, 2))
    with pytest.raises(camcore.InputError, match="prefix tokens"):
        camcore.legrad(backend.array(np.ones((2, 5, 5))), (2, 2), prefix_tokens=0)
