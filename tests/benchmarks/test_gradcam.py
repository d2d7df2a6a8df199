"""The benchmark's own arithmetic: what it counts, how it compares, what its tables say."""

import json
from dataclasses import asdict, replace
from itertools import cycle

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import timing
from benchmarks.files import check_map
from benchmarks.report import Row, line, markdown_table, render, timed
from benchmarks.subjects import earlier_limit, tail_share
from benchmarks.timing import Effort, alternate, compare, spread

ROW = Row(
    section="last block",
    model="resnet18",
    layer="layer4",
    size="free",
    device="cpu",
    baseline="plain",
    contender="explained",
    limit=1.05,
    ratio=(1.01, 1.02, 1.03),
    baseline_ms=21.0,
    contender_ms=21.5,
    pairs=30,
    facts={"tail_share": 0.25},
)


class Branch(nn.Module):
    """Eight 3 x 3 filters, half of their pixels dropped, four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(8, 16, 1, groups=2)
        self.fc = nn.Linear(16 * 6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.pool(torch.relu(self.body(image)))
        scores: torch.Tensor = self.fc(self.head(features).flatten(1))
        return scores


def test_tail_share_counts_multiply_accumulates() -> None:
    body = 4 * 6 * 8 * 3 * 9
    head = 2 * 3 * 16 * 4  # each of two groups sees half of the channels
    fc = 16 * 6 * 4
    total = body + head + fc
    model, image = Branch().eval(), torch.zeros(1, 3, 4, 6)
    assert tail_share(model, "body", image) == pytest.approx((head + fc) / total)
    assert tail_share(model, "pool", image) == pytest.approx((head + fc) / total)
    assert tail_share(model, "head", image) == pytest.approx(fc / total)
    assert tail_share(model, "fc", image) == 0


def test_tail_share_leaves_no_hook() -> None:
    model = Branch().eval()
    tail_share(model, "pool", torch.zeros(1, 3, 4, 6))
    assert not any(module._forward_hooks for module in model.modules())


def test_earlier_limit() -> None:
    assert earlier_limit(0) == 1.15
    assert earlier_limit(1) == 2.3


def test_spread_holds_the_quartiles() -> None:
    values = [9.0, 1.0, 7.0, 3.0, 5.0, 11.0]
    assert spread(values) == pytest.approx(tuple(np.quantile(values, [0.25, 0.5, 0.75])))
    assert spread([2.0]) == (2.0, 2.0, 2.0)


def test_ratio_is_taken_pair_by_pair() -> None:
    # The machine slows down tenfold in the middle of a run: medians of the times would be torn
    # apart, each pair still says 2.
    baseline = [1.0, 1.0, 1.0, 10.0, 10.0]
    comparison = compare(baseline, [2 * seconds for seconds in baseline])
    assert comparison.ratio == (2.0, 2.0, 2.0)
    assert comparison.baseline == (1.0, 1.0, 10.0)
    assert comparison.pairs == 5


def test_unpaired_times_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("seconds", "pairs"), [(0.0, 2), (1e9, 5)])
def test_alternate_takes_turns(seconds: float, pairs: int) -> None:
    calls: list[str] = []
    effort = Effort(seconds, at_least=2, at_most=5, warm_up=1)
    comparison = alternate(lambda: calls.append("A"), lambda: calls.append("B"), effort)
    assert comparison.pairs == pairs
    assert calls == ["A", "B"] * (1 + pairs)


def test_alternate_gives_each_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that reads: end of the budget, then start and stop of A, start and stop of B, ...
    steps = cycle([0.0, 1.0, 0.0, 3.0])
    clock = iter([0.0, *(next(steps) for _ in range(8))])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    comparison = alternate(lambda: None, lambda: None, Effort(0, 2, 2, warm_up=0))
    assert comparison.baseline == (1.0, 1.0, 1.0)
    assert comparison.contender == (3.0, 3.0, 3.0)


def test_a_burst_is_many_runs_behind_many_that_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    calls: list[str] = []

    def run(name: str, seconds: float, first: float) -> None:
        nonlocal now
        # The first run behind another contender's is the slow one.
        now += first if calls[-1:] != [name] else seconds
        calls.append(name)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    effort = Effort(0, at_least=2, at_most=2, warm_up=0, burst=4.0)
    comparison = alternate(lambda: run("A", 1.0, 2.0), lambda: run("B", 2.0, 5.0), effort)
    assert comparison.baseline == (1.0, 1.0, 1.0)
    assert comparison.contender == (2.0, 2.0, 2.0)
    assert calls == [*"AAA", *"AAAA", *"B", *"BB"] * 2


@pytest.mark.parametrize(
    ("kind", "limit", "verdict"),
    [
        ("at most", 1.05, "met"),
        ("at most", 1.02, "met"),
        ("at most", 1.01, "missed"),
        ("at least", 1.02, "met"),
        ("at least", 4.0, "missed"),
        ("at most", None, ""),
    ],
)
def test_verdict_is_the_medians(kind: str, limit: float | None, verdict: str) -> None:
    assert replace(ROW, limit=limit, limit_kind=kind).verdict == verdict


def test_line_explains_itself() -> None:
    assert line(ROW) == (
        "last block: resnet18 layer4, free, cpu: explained / plain = 1.020x [1.01, 1.03]; "
        "at most 1.05x: met; 21.5 ms / 21.0 ms, 30 pairs; tail share 25.0%"
    )
    refused = replace(ROW, ratio=None, refused="the maps differ by 2.0e-01")
    assert line(refused).endswith("explained / plain: refused, the maps differ by 2.0e-01")


def test_timed_gives_milliseconds() -> None:
    fields = timed(compare([0.010, 0.020], [0.020, 0.040]))
    assert fields["baseline_ms"] == 15.0
    assert fields["contender_ms"] == 30.0
    assert fields["ratio"] == (2.0, 2.0, 2.0)


def test_markdown_table_leaves_empty_columns_out() -> None:
    records = [{"a": "1", "b": "", "c": ""}, {"a": "2", "b": "", "c": "x"}]
    assert markdown_table(records) == "| a | c |\n|---|---|\n| 1 |  |\n| 2 | x |"


def test_results_are_rendered_from_json() -> None:
    peer = replace(
        ROW, section="pytorch-grad-cam", ratio=None, refused="the maps differ by 2.0e-01"
    )
    results = {
        "machine": {"cores": 2, "torch": "2.15.0", "onnxruntime-gpu": None},
        "quick": True,
        "cuda": "not measured: torch finds no CUDA device",
        "rows": [asdict(ROW), asdict(peer)],
        "install": {"camcore[run]": 250_400_000, "torch": 5_000_000_000},
    }
    text = render(json.loads(json.dumps(results)))
    lines = text.splitlines()
    assert (
        "| resnet18 | layer4 | free | cpu | 1.020x [1.01, 1.03] | at most 1.05x | met | 21.0 | "
        "21.5 | 30 | 25.0% |"
    ) in lines
    assert any("the maps differ by 2.0e-01 | at most 1.05x | refused" in line for line in lines)
    assert "Machine: cores 2, torch 2.15.0." in lines
    assert "CUDA: not measured: torch finds no CUDA device." in lines
    assert "- camcore[run]: 250 MB" in lines
    assert "quick run" in text
    assert "quick run" not in render(results | {"quick": False})
    assert "Not measured" in render(results | {"install": None})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, np.nan, 1.0], "NaN"),
        ([0.0, 1.5], "leaves"),
        ([-0.5, 1.0], "leaves"),
        ([0.7, 0.7], "constant"),
    ],
)
def test_unfit_maps_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_map(np.array(values, dtype=np.float32))


def test_fit_maps_pass() -> None:
    check_map(np.linspace(0, 1, 9, dtype=np.float32).reshape(1, 1, 3, 3))
