"""Raw maps of one or several layers become the saliency map, by the equations in loops."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from camcore.export.finish import finish, map_size, unscaled_mean
from tests.camcore import references

SIZE = (12, 10)
grids = st.lists(st.tuples(st.integers(2, 6), st.integers(2, 6)), min_size=2, max_size=4)
seeds = st.integers(0, 10_000)


def asked(**changes: Any) -> Any:
    """What `finish` reads of a request."""
    options = {"spatial_ndim": 2, "relu": True, "normalize": True, "combine": "mean"} | changes
    return SimpleNamespace(**options)


def raw_maps(seed: int, grids: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, *grid, generator=generator) for grid in grids]


def by_hand(maps: list[Tensor], how: str) -> np.ndarray:
    """(B, K, *SIZE), one image and one class at a time."""
    found = np.zeros((2, 3, *SIZE))
    for n, k in np.ndindex(2, 3):
        own = [each[n, k].double().numpy() for each in maps]
        if how == "sum":
            total = sum(references.resize(each, SIZE) for each in own)
        else:
            scaled = [references.normalize(np.maximum(each, 0)) for each in own]
            resized = [references.resize(each, SIZE) for each in scaled]
            if how in ("mean", "max"):
                total = {"mean": np.mean, "max": np.max}[how](resized, axis=0)
            else:
                total = np.prod([references.normalize(each) for each in resized], axis=0)
        found[n, k] = references.normalize(total)
    return found


@given(seed=seeds, grids=grids)
def test_one_layer(seed: int, grids: Any) -> None:
    (maps,) = raw_maps(seed, grids[:1])
    found = finish(asked(), [maps], SIZE)
    for n, k in np.ndindex(2, 3):
        expected = references.postprocess(maps[n, k].double().numpy(), SIZE)
        np.testing.assert_allclose(found[n, k], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "product", "sum", "max"])
@given(seed=seeds, grids=grids)
def test_several_layers(how: str, seed: int, grids: Any) -> None:
    maps = raw_maps(seed, grids)
    found = finish(asked(combine=how), maps, SIZE)
    np.testing.assert_allclose(found, by_hand(maps, how), rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", ["mean", "product", "sum", "max"])
@given(seed=seeds, grids=grids, data=st.data())
def test_their_order_does_not_matter(how: str, seed: int, grids: Any, data: st.DataObject) -> None:
    maps = raw_maps(seed, grids)
    turned = data.draw(st.permutations(maps))
    first, second = (finish(asked(combine=how), each, SIZE) for each in (maps, turned))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@given(seed=seeds, grids=grids, factor=st.floats(0.1, 10), count=st.integers(1, 4))
def test_without_scaling_maps_keep_their_unit(
    seed: int, grids: Any, factor: float, count: int
) -> None:
    maps = raw_maps(seed, grids[:count])
    request = asked(normalize=False)
    found, times = (finish(request, each, SIZE) for each in (maps, [factor * m for m in maps]))
    assert found.max() > 0
    torch.testing.assert_close(times, factor * found, rtol=1e-4, atol=1e-5)


def test_the_size_of_a_map() -> None:
    image = torch.zeros(2, 3, 8, 9)
    assert map_size(asked(full_size=True), image) == (8, 9)
    assert map_size(asked(full_size=False), image) is None
    (maps,) = raw_maps(0, [(4, 5)])
    assert finish(asked(), [maps], None).shape == maps.shape


@given(seed=seeds, grids=grids)
def test_the_mean_on_the_finest_grid(seed: int, grids: Any) -> None:
    maps = raw_maps(seed, grids)
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    found = unscaled_mean(maps, 2)
    for n, k in np.ndindex(2, 3):
        own = [references.resize(each[n, k].double().numpy(), finest) for each in maps]
        np.testing.assert_allclose(found[n, k], np.mean(own, axis=0), rtol=0, atol=1e-5)
