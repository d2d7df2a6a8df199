"""Two contenders timed in turn: whatever slows the machine for a while slows both."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Lower quartile, median, upper quartile.
Spread = tuple[float, float, float]

# PyTorch's idle threads spin on for some milliseconds; the contender that follows should not pay.
_REST = 0.01


@dataclass(frozen=True)
class Comparison:
    """A contender beside a baseline: seconds of each, and the ratio of each pair of neighbours.

    The middle of `ratio` is the figure to quote. It is the median of the pairs' own ratios, not the
    ratio of the medians, so a machine that grows slower half-way does not shift it.
    """

    baseline: Spread
    contender: Spread
    ratio: Spread
    pairs: int


@dataclass(frozen=True)
class Effort:
    """How long to measure: pairs until `seconds` have passed, but within these bounds.

    With a `burst` a time is the mean over as many seconds of runs, behind as many seconds that do
    not count. Run by run, small models would be timed while their threads wake up, caches fill
    again and the other contender's threads still wait for work.
    """

    seconds: float
    at_least: int
    at_most: int
    warm_up: int
    burst: float = 0.0


def spread(values: Sequence[float]) -> Spread:
    """The quartiles of at least one value.

    >>> spread([4, 1, 3, 2, 5])
    (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def compare(baseline: Sequence[float], contender: Sequence[float]) -> Comparison:
    """Compare seconds that were measured in pairs.

    >>> compare([1.0, 2.0, 4.0], [2.0, 4.0, 12.0]).ratio
    (2.0, 2.0, 2.5)
    """
    ratios = [theirs / base for base, theirs in zip(baseline, contender, strict=True)]
    return Comparison(spread(baseline), spread(contender), spread(ratios), len(ratios))


def alternate(
    baseline: Callable[[], object], contender: Callable[[], object], effort: Effort
) -> Comparison:
    """Time two functions as A B A B, after warm-up. Each returns only once its work is done."""
    for _ in range(effort.warm_up):
        baseline()
        contender()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + effort.seconds
    while len(times[0]) < effort.at_most and (
        len(times[0]) < effort.at_least or time.perf_counter() < end
    ):
        for function, seconds in zip((baseline, contender), times, strict=True):
            time.sleep(_REST)
            if effort.burst:
                _time_runs(function, effort.burst)
            seconds.append(_time_runs(function, effort.burst))
    return compare(*times)


def _time_runs(function: Callable[[], object], at_least: float) -> float:
    """Seconds of a run, the mean over as many as take so long, one after the other."""
    runs, start = 0, time.perf_counter()
    while True:
        function()
        runs += 1
        spent = time.perf_counter() - start
        if spent >= at_least:
            return spent / runs
