"""How many passes there are, and how many go through at a time."""

from typing import Any

import pytest
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export import Explained, explain
from camcore.export.passes import plan
from tests.export.models import (
    EXAMPLE,
    NUM_CLASSES,
    build,
)
from tests.export.passing import CASES

pytestmark = pytest.mark.usefixtures("shared_traces")


class Growing(nn.Module):
    """Values of 4 x 24 x 24, then of `width` channels, and a layer to explain between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, width, 1)
        self.top = nn.Conv2d(width, 2, 5, stride=5)
        self.fc = nn.Linear(2, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.top(self.wide(self.stem(x)).relu()).relu().mean((2, 3)))  # type: ignore[no-any-return]


def chunk_of(explained: Explained) -> int:
    """The number of passes at a time, as it was planned and as the card tells it."""
    assert explained.found.plan is not None
    assert explained.card.options["chunk"] == explained.found.plan.chunk
    return explained.found.plan.chunk


@pytest.mark.parametrize(("layer", "method", "expected"), [
    ("stem", "reciprocam", 4),
    ("top", "reciprocam", 32),
    ("top", "scorecam", 4),
    (None, "rise", 4),
])  # fmt: skip
def test_as_many_passes_at_a_time_as_fit(
    layer: str | None, method: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the largest value that a pass makes on its way: here 12 x 24 x 24."""
    monkeypatch.setattr(plan, "_IN_FLIGHT", 7 * 4 * 12 * 24 * 24)
    how: dict[str, Any] = {"method": method, "layer": layer, "target": "probability"}
    model = build(lambda: Growing(12))
    assert chunk_of(explain(model, EXAMPLE, **how)) == expected
    assert chunk_of(explain(model, EXAMPLE, chunk=9, **how)) == 9


def test_one_pass_at_a_time_where_no_two_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_IN_FLIGHT", 1)
    assert chunk_of(explain(build(lambda: Growing(4)), EXAMPLE, method="rise")) == 1


def test_steps_of_unknown_number_fix_the_size(models: dict[str, nn.Module]) -> None:
    case, model = CASES["skip"], models["skip"]
    explained = case.explain(model, "reciprocam", stepwise=True)
    assert explained.card.image.height == 24
    assert "takes a pass for each point" in explained.card.notes[0]
    with pytest.raises(ExportError, match="their number is not known"):
        case.explain(model, "reciprocam", stepwise=True, dynamic_size=True)
