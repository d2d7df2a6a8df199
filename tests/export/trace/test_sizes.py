"""Height and width are free where the model allows it, and only there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError
from camcore.export.trace.trace import trace
from tests.export.models import Classifier, Recurrent, build, images


class FixedSize(nn.Module):
    """Flattens its features, so the linear layer fixes height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))  # type: ignore[no-any-return]


def assert_fixed(make: Callable[[], nn.Module], size: tuple[int, int], note: str) -> None:
    model = build(make, shape=(3, *size))
    traced = trace(model, torch.zeros(1, 3, *size))
    assert not traced.dynamic_size
    assert note in traced.notes[0]
    image = images(1, 3, *size)
    torch.testing.assert_close(traced.graph(image), model(image))


def test_a_fixed_size_is_found_and_told() -> None:
    assert_fixed(FixedSize, (16, 16), "the model fixes them")


def test_a_free_size_that_cannot_be_had() -> None:
    with pytest.raises(ExportError, match=r"free height and width.*dynamic_size"):
        trace(build(FixedSize), torch.zeros(1, 3, 16, 16), dynamic_size=True)


class SamePadding(nn.Conv2d):
    """A convolution with a stride, padded by TensorFlow's rule."""

    def forward(self, x: Tensor) -> Tensor:
        missing = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[2:]]
        sides = [side for n in reversed(missing) for side in (n // 2, n - n // 2)]
        return super().forward(F.pad(x, sides))


def test_sizes_that_are_too_intricate_are_fixed() -> None:
    def make() -> nn.Module:
        convs = [SamePadding(3 if n == 0 else 4, 4, 3, stride=2) for n in range(5)]
        return Classifier(nn.Sequential(*convs), 4)

    note = "from SamePadding on, follow from the image's in too intricate a way"
    assert_fixed(make, (50, 64), note)
    # No hook is left behind.
    assert not torch.nn.modules.module._global_forward_hooks


class PadsByRemainder(nn.Conv2d):
    """A convolution of three columns, padded so that its stride of two leaves none out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, [1, 0] if x.shape[3] % 2 == 0 else [1, 1]))


def test_a_size_whose_remainder_counts_is_fixed() -> None:
    def make() -> nn.Module:
        return Classifier(nn.Sequential(PadsByRemainder(3, 4, 3, stride=2)), 4)

    assert_fixed(
        make, (24, 24), "the model fixes them: traced for every size, it answers otherwise"
    )
    with pytest.raises(ExportError, match="at 31 x 33"):
        trace(build(make, shape=(3, 24, 24)), torch.zeros(1, 3, 24, 24), dynamic_size=True)


def test_the_steps_of_a_recurrent_layer_are_fixed() -> None:
    assert_fixed(Recurrent, (16, 24), "the model fixes them: reader is recurrent")
    with pytest.raises(ExportError, match=r"reader is recurrent.*dynamic_size"):
        trace(build(Recurrent), torch.zeros(1, 3, 16, 24), dynamic_size=True)


def test_circular_padding_at_other_sizes() -> None:
    model = nn.Sequential(nn.CircularPad2d((3, 1, 0, 2)), nn.ReflectionPad2d(1)).eval()
    graph = trace(model, torch.zeros(1, 3, 8, 10)).graph
    image = images(2, 2, 13, 7)
    torch.testing.assert_close(graph(image), model(image), rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("pool", "free"),
    [
        (nn.MaxPool2d(2, 2, 1, ceil_mode=True), False),
        (nn.AvgPool2d(2, 2, 1, ceil_mode=True), False),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), True),
        (nn.AvgPool2d(2, ceil_mode=True), True),
    ],
)
def test_windows_that_may_begin_in_the_padding(pool: nn.Module, free: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    traced = trace(model, torch.zeros(1, 3, 24, 24))
    assert traced.dynamic_size == free
    if free:
        for side in (23, 25, 30):
            image = images(1, 2, side, 24)
            torch.testing.assert_close(traced.graph(image), model(image))
