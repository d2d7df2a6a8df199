"""The papers' equations as loops over plain numbers, in float64: what the kernels are held against.

A method takes one image's activations a and gradients g, both (C, P) with space flattened to P
points, and gives the raw map (P,). Nothing here calls camcore.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

Numbers = np.ndarray


def gradcam_weights(a: Numbers, g: Numbers) -> Numbers:
    """w_k = 1/Z sum_p G_kp."""
    return np.array([sum(row) / len(row) for row in g])


def xgradcam_weights(a: Numbers, g: Numbers, eps: float = 1e-7) -> Numbers:
    """w_k = sum_p (A_kp / sum_q A_kq) G_kp."""
    weights = np.zeros(len(a))
    for k in range(len(a)):
        total = sum(a[k]) + eps
        weights[k] = sum(a[k, p] / total * g[k, p] for p in range(a.shape[1]))
    return weights


def gradcam_plus_plus_weights(a: Numbers, g: Numbers, eps: float = 1e-6) -> Numbers:
    """w_k = sum_p alpha_kp relu(G_kp), alpha_kp = G^2 / (2 G^2 + sum_q A_kq G^3)."""
    weights = np.zeros(len(a))
    for k in range(len(a)):
        for x in g[k]:
            if x > 0:
                weights[k] += x**2 / (2 * x**2 + sum(a[k]) * x**3 + eps) * x
    return weights


def smoothgradcam_plus_plus_weights(a: Numbers, gs: Numbers, eps: float = 1e-6) -> Numbers:
    """Grad-CAM++'s, of the powers of gradients (n, C, P) averaged over n."""
    weights = np.zeros(len(a))
    for k in range(len(a)):
        for p in range(a.shape[1]):
            first, second, third = (
                sum(g[k, p] ** power for g in gs) / len(gs) for power in (1, 2, 3)
            )
            if first > 0:
                weights[k] += second / (2 * second + sum(a[k]) * third + eps) * first
    return weights


def weighted_sum(a: Numbers, w: Numbers) -> Numbers:
    """L_p = sum_k w_k A_kp."""
    return np.array([sum(w[k] * a[k, p] for k in range(len(a))) for p in range(a.shape[1])])


def gradcam(a: Numbers, g: Numbers) -> Numbers:
    return weighted_sum(a, gradcam_weights(a, g))


def xgradcam(a: Numbers, g: Numbers, eps: float = 1e-7) -> Numbers:
    return weighted_sum(a, xgradcam_weights(a, g, eps))


def gradcam_plus_plus(a: Numbers, g: Numbers, eps: float = 1e-6) -> Numbers:
    return weighted_sum(a, gradcam_plus_plus_weights(a, g, eps))


def hirescam(a: Numbers, g: Numbers) -> Numbers:
    """L_p = sum_k G_kp A_kp."""
    return np.array([sum(g[k, p] * a[k, p] for k in range(len(a))) for p in range(a.shape[1])])


def layercam(a: Numbers, g: Numbers) -> Numbers:
    """L_p = sum_k relu(G_kp) A_kp."""
    return np.array(
        [sum(max(g[k, p], 0) * a[k, p] for k in range(len(a))) for p in range(a.shape[1])]
    )


def gradcam_elementwise(a: Numbers, g: Numbers) -> Numbers:
    """L_p = sum_k relu(G_kp A_kp)."""
    return np.array(
        [sum(max(g[k, p] * a[k, p], 0) for k in range(len(a))) for p in range(a.shape[1])]
    )


def first_component(x: Numbers) -> Numbers:
    """The centred (C, P) on their first left singular vector, up where the channels' mean is up;
    where that says nothing, the value farthest from zero is positive.
    """
    centred = x - x.mean(axis=1, keepdims=True)
    vectors, _, _ = np.linalg.svd(centred, full_matrices=False)
    return _oriented(vectors[:, 0] @ centred, centred)


def kpcacam(x: Numbers, gamma: float | None = None, coef: float = 1.0) -> Numbers:
    """sqrt(lambda) v of the double-centred matrix of tanh(gamma x_p . x_q + coef)."""
    centred = x - x.mean(axis=1, keepdims=True)
    points = x.shape[1]
    gamma = 1 / len(x) if gamma is None else gamma
    kernel = np.tanh(gamma * centred.T @ centred + coef)
    centring = np.eye(points) - 1 / points
    values, vectors = np.linalg.eigh(centring @ kernel @ centring)
    return _oriented(np.sqrt(max(values[-1], 0)) * vectors[:, -1], centred)


def _oriented(raw: Numbers, centred: Numbers) -> Numbers:
    direction = raw @ centred.sum(axis=0)
    if abs(direction) <= 1e-3 * np.linalg.norm(raw) * np.linalg.norm(centred):
        direction = raw.max() + raw.min()
    return -raw if direction < 0 else raw


def activation(a: Numbers) -> Numbers:
    """L_p = 1/C sum_k A_kp."""
    return np.array([sum(a[:, p]) / len(a) for p in range(a.shape[1])])


def fem_weights(a: Numbers, k: float = 2.0) -> Numbers:
    """w_k = the share of points above mean + k std."""
    weights = np.zeros(len(a))
    for channel, row in enumerate(a):
        mean = sum(row) / len(row)
        std = (sum((value - mean) ** 2 for value in row) / len(row)) ** 0.5
        weights[channel] = sum(value - mean > k * std for value in row) / len(row)
    return weights


def fem(a: Numbers, k: float = 2.0) -> Numbers:
    return weighted_sum(a, fem_weights(a, k))


def normalize(raw: Numbers, eps: float = 1e-7) -> Numbers:
    """(L_p - min) / (max - min + eps) of one map of any shape."""
    lowest, highest = min(raw.flat), max(raw.flat)
    return np.array([(value - lowest) / (highest - lowest + eps) for value in raw.flat]).reshape(
        raw.shape
    )


def resize_line(line: Numbers, size: int) -> Numbers:
    """Linear interpolation between the two nearest pixel centres, clamped at the ends."""
    resized = np.zeros(size)
    for n in range(size):
        position = min(max((n + 0.5) * len(line) / size - 0.5, 0), len(line) - 1)
        left = int(np.floor(position))
        right = min(left + 1, len(line) - 1)
        resized[n] = line[left] + (position - left) * (line[right] - line[left])
    return resized


def resize(raw: Numbers, size: tuple[int, ...]) -> Numbers:
    """One map (*S) at the size, one axis after another."""
    for axis, length in enumerate(size):
        raw = np.apply_along_axis(resize_line, axis, raw, length)
    return raw


def postprocess(raw: Numbers, size: tuple[int, ...] | None) -> Numbers:
    """relu, min-max, resize, min-max."""
    scaled = normalize(np.maximum(raw, 0))
    return normalize(scaled if size is None else resize(scaled, size))


def for_each_image(
    method: Callable[..., Numbers], a: Numbers, g: Numbers, spatial_ndim: int
) -> Numbers:
    """One image's method over leading axes that broadcast: weights (..., C) or maps (..., *S)."""
    core = 1 + spatial_ndim
    channels, space = a.shape[-core], a.shape[-spatial_ndim:]
    leading = np.broadcast_shapes(a.shape[:-core], g.shape[:-core])
    a = np.broadcast_to(a, leading + a.shape[-core:])
    g = np.broadcast_to(g, leading + g.shape[-core:])
    own_shape = (channels,) if method.__name__.endswith("_weights") else space
    result = np.zeros(leading + own_shape)
    for image in indices(leading):
        one = method(a[image].reshape(channels, -1), g[image].reshape(channels, -1))
        result[image] = one.reshape(own_shape)
    return result


def for_each_map(
    function: Callable[[Numbers], Numbers], maps: Numbers, spatial_ndim: int, size: tuple[int, ...]
) -> Numbers:
    """A function of one map, over all leading axes."""
    leading = maps.shape[: maps.ndim - spatial_ndim]
    result = np.zeros((*leading, *size))
    for each in indices(leading):
        result[each] = function(maps[each])
    return result


def indices(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape))
