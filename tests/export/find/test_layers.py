"""The list of layers: in the order of execution, with what each is good for."""

import pytest
from torch import nn

from camcore.export import LayerInfo, list_layers
from tests.export.models import EXAMPLE, REASONS, Pyramid, build


@pytest.fixture(scope="module")
def rows(small_net: nn.Module) -> dict[str, LayerInfo]:
    return {row.name: row for row in list_layers(small_net, EXAMPLE)}


def test_layers_come_in_the_order_of_execution(rows: dict[str, LayerInfo]) -> None:
    order = list(rows)
    chain = [
        "stem.0",
        "stem.2",
        "stem.3",
        "block.conv1",
        "block.norm1",
        "block.conv2",
        "top.0",
        "fc",
    ]
    assert [name for name in order if name in chain] == chain


def test_shapes_and_kinds(rows: dict[str, LayerInfo]) -> None:
    assert rows["stem.0"].shape == (8, 12, 12)
    assert rows["stem.0"].kind == "Conv2d"
    assert rows["block"].shape == (8, 12, 12)
    assert rows["block"].kind == "Residual"
    assert rows["top"].shape == (12, 6, 6)
    assert rows["fc"].shape == (5,)


def test_usable_layers_and_reasons(rows: dict[str, LayerInfo]) -> None:
    assert {name for name, row in rows.items() if not row.usable} == {"fc"}
    assert "no spatial axes" in rows["fc"].reason
    assert [name for name, row in rows.items() if row.default] == ["top"]
    assert rows["top"].reason
    assert not rows["block"].reason


@pytest.fixture(scope="module")
def pyramid() -> nn.Module:
    return build(Pyramid)


def test_reasons_in_the_list(pyramid: nn.Module) -> None:
    rows = {row.name: row for row in list_layers(pyramid, EXAMPLE)}
    for name in ("levels", "tokens", "fc"):
        assert not rows[name].usable
        assert REASONS[name] in rows[name].reason
    assert rows["levels.conv"].usable or "2 tensors" in rows["levels.conv"].reason
