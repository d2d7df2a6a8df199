"""Norms by statistics that are known, or each image's own."""

import pytest
from torch import Tensor
from torch.nn import functional as F

from tests.export.rule_cases import (
    MEAN,
    ONE,
    SCALE,
    SHIFT,
    THREE,
    TWO,
    VARIANCE,
    Case,
    Rules,
    assert_exact,
    assert_traced_with_symbolic_sizes,
    gradient,
    random,
)


def batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, MEAN, VARIANCE, SCALE, SHIFT, training=False, eps=1e-3)


def batch_norm_without_weight(x: Tensor) -> Tensor:
    return F.batch_norm(x, MEAN, VARIANCE, training=False)


def instance_norm(x: Tensor) -> Tensor:
    return F.instance_norm(x, weight=SCALE, bias=SHIFT, eps=1e-3)


def group_norm(x: Tensor) -> Tensor:
    return F.group_norm(x, 1, SCALE, SHIFT, eps=1e-3)


CASES = {
    "batch_norm": Case("native_batch_norm_backward", batch_norm, TWO),
    "batch_norm_plain": Case("native_batch_norm_backward", batch_norm_without_weight, TWO),
    "batch_norm_1d": Case("native_batch_norm_backward", batch_norm, ONE),
    "instance_norm": Case("native_batch_norm_backward", instance_norm, TWO),
    "instance_norm_plain": Case("native_batch_norm_backward", F.instance_norm, TWO),
    "group_norm": Case("native_group_norm_backward", group_norm, TWO),
    "group_norm_plain": Case("native_group_norm_backward", lambda x: F.group_norm(x, 2), TWO),
    "group_norm_1d": Case("native_group_norm_backward", group_norm, ONE),
    "instance_norm_3d": Case("native_batch_norm_backward", instance_norm, THREE),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    assert_exact(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_traced_with_symbolic_sizes(name: str) -> None:
    assert_traced_with_symbolic_sizes(CASES[name])


def test_batch_norm_in_training_mode_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="batch statistics"), Rules():
        gradient(lambda x: F.batch_norm(x, None, None, training=True), random(4, 3, 5, 5))
