"""Models that go another way for some sizes or batches, or draw random numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError, InputError
from camcore.export.trace.trace import trace

Condition = Callable[[Tensor], bool]


class Branching(nn.Module):
    def __init__(self, condition: Condition) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.condition = condition

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv(x))
        return self.fc((y * 2 if self.condition(x) else y * y).mean((2, 3)))


EXAMPLE = torch.zeros(1, 3, 40, 44)
SIZES: dict[str, Condition] = {
    "rows": lambda x: x.shape[2] > 60,
    "many rows": lambda x: x.shape[2] > 200,
    "few columns": lambda x: x.shape[3] < 23,
    "area": lambda x: x.shape[2] * x.shape[3] > 5000,
    "upright": lambda x: x.shape[2] > 2 * x.shape[3],
    "remainder": lambda x: x.shape[2] % 8 > 0,
}
BATCHES: dict[str, Condition] = {
    "one": lambda x: x.shape[0] > 1,
    "many": lambda x: x.shape[0] > 30,
}


@pytest.mark.parametrize("name", SIZES)
def test_another_way_for_other_sizes_fixes_the_size(name: str) -> None:
    traced = trace(Branching(SIZES[name]).eval(), EXAMPLE)
    assert not traced.dynamic_size
    assert "answers otherwise at" in traced.notes[0]


def test_sizes_that_change_nothing_stay_free() -> None:
    assert trace(Branching(lambda x: True).eval(), EXAMPLE).dynamic_size


@pytest.mark.parametrize("dynamic_size", [None, False])
@pytest.mark.parametrize("name", BATCHES)
def test_another_way_for_other_batches_is_refused(name: str, dynamic_size: bool | None) -> None:
    with pytest.raises(ExportError, match="the model goes another way for a batch of"):
        trace(Branching(BATCHES[name]).eval(), EXAMPLE, dynamic_size=dynamic_size)


def test_dropout_that_never_stops_is_refused_with_its_module() -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5)

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Dropping(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=r"differs from run to run.*dropout.* in 1\."):
        trace(model.eval(), EXAMPLE)
