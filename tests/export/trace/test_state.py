"""What a model changes while it answers is found as it was, and is no part of the graph."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcore.export import explain, save
from camcore.export.trace.state import kept_state
from tests.export.models import NUM_CLASSES, SmallNet, build, images
from tests.export.oracle import TOLERANCE, run_any_file, worst_error


class Counting(nn.Module):
    """Counts its calls, in place and by new tensors, and adds the count to its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build(SmallNet)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(NUM_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        scores = self.net(x) + self.calls
        self.last = scores.detach().mean(0)
        return scores


class Writing(nn.Module):
    """Normalises its input in place, as some do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build(SmallNet)

    def forward(self, x: Tensor) -> Any:
        return self.net(x.sub_(0.5).div_(0.25))


def test_buffers_are_put_back_bit_by_bit() -> None:
    model = Counting().eval()
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    with kept_state(model):
        model(images(1, 2, 24, 24))
        assert model.calls == 1
        assert model.last.any()
    after = dict(model.named_buffers())
    assert set(after) == set(before)
    for name, (buffer, value) in before.items():
        assert after[name] is buffer
        assert torch.equal(buffer, value)


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_a_model_that_counts(suffix: str, tmp_path: Path) -> None:
    """Explained and written, it is what it was, and answers as it would the first time."""
    model = Counting().eval()
    save(explain(model, torch.zeros(1, 3, 24, 24)), tmp_path / f"model{suffix}")
    assert model.calls == 0
    assert not model.last.any()
    image = images(3, 2, 24, 24)
    ids = torch.tensor([[0], [2]])
    for _ in range(2):
        scores, *_ = run_any_file(tmp_path / f"model{suffix}", image, ids).values()
        with torch.no_grad():
            assert worst_error(scores, (model.net(image) + 1).numpy()) < TOLERANCE


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_model_that_writes_into_its_input(suffix: str, tmp_path: Path) -> None:
    model = Writing().eval()
    example = images(1, 1, 24, 24)
    kept = example.clone()
    explained = explain(model, example, layer="net.block.conv2", dynamic_size=True)
    save(explained, tmp_path / f"model{suffix}")
    assert torch.equal(example, kept)
    image = images(4, 2, 32, 24)
    plain = explain(model.net, example, layer="block.conv2", dynamic_size=True)
    ids = torch.tensor([[0], [2]])
    expected = plain((image - 0.5) / 0.25, ids)
    *_, saliency_map = run_any_file(tmp_path / f"model{suffix}", image, ids).values()
    assert worst_error(saliency_map, expected.saliency_map.numpy()) < TOLERANCE


class Noting(nn.Module):
    """Keeps what buffers do not: a number, a list, and what it sees first."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.net, self.of = build(SmallNet), of
        self.count, self.seen, self.first = 0, [], None

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.seen.append(self.count)
        if self.first is None:
            self.first = x.mean((1, 2, 3))[:1]
        factor = {"count": self.count, "seen": len(self.seen), "first": self.first}[self.of]
        return self.net(x) * (1 + 0.1 * factor)  # type: ignore[no-any-return]


@pytest.mark.parametrize("of", ["count", "seen", "first"])
def test_what_modules_hold_is_put_back_and_a_file_answers_as_the_first_time(
    of: str, tmp_path: Path
) -> None:
    model = Noting(of).eval()
    explained = explain(model, images(2, 1, 24, 24), layer="net.top", dynamic_size=False)
    save(explained, tmp_path / "model.pt")
    assert (model.count, model.seen, model.first) == (0, [], None)
    for seed in (3, 4):
        image = images(seed, 2, 24, 24)
        scores, *_ = run_any_file(tmp_path / "model.pt", image, torch.tensor([[0], [2]])).values()
        with torch.no_grad():
            assert worst_error(scores, deepcopy(model)(image).numpy()) < TOLERANCE
