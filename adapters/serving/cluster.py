"""Cluster: rows of a table through actors on a Ray cluster, in order."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from camcore.adapters.runner import Device

# Rows that go to an actor together: at most so many, and so few that each gets some.
_MOST_ROWS = 256
_BLOCKS_EACH = 4


def mapped(
    actor: type, given: Any, columns: pa.Table, device: Device, threads: int
) -> Iterator[pa.Table]:
    """What actors, each made of what is given, make of the rows of a table, in their order."""
    import ray
    import ray.data

    with _cluster() as cpus:
        actors = max(1, int(cpus) // threads)
        size = max(1, min(_MOST_ROWS, -(-len(columns) // (_BLOCKS_EACH * actors))))
        blocks = [columns.slice(start, size) for start in range(0, len(columns), size)]
        results = ray.data.from_arrow(blocks).map_batches(
            actor,
            fn_constructor_args=(given,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, len(blocks))),
            num_cpus=threads,
            num_gpus=1 if device == "cuda" else 0,
        )
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow")


@contextmanager
def _cluster() -> Iterator[float]:
    """How many CPUs the cluster has, which is left as it was found."""
    import ray

    had = ray.is_initialized()
    if not had:
        ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        with _in_order_and_quiet():
            yield ray.cluster_resources().get("CPU", 1)
    finally:
        if not had:
            ray.shutdown()


@contextmanager
def _in_order_and_quiet() -> Iterator[None]:
    """Rows come in the order in which they were given, and Ray tells of errors alone."""
    from ray.data import DataContext

    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    context = DataContext.get_current()
    options = context.execution_options
    before = options.preserve_order, context.enable_progress_bars
    options.preserve_order, context.enable_progress_bars = True, False
    try:
        yield
    finally:
        options.preserve_order, context.enable_progress_bars = before
        logger.setLevel(level)
