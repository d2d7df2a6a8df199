"""What maps of queries cost: `python -m benchmarks.queries`.

The image tower of CLIP ViT-B/32, from transformers' configuration with random weights, with a map
for each query, takes turns with the tower alone in one run. QUERIES.md holds the table.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.files import Session, check_map, write_plain
from benchmarks.report import described, machine_facts
from benchmarks.timing import Comparison, Effort, alternate
from camcore.export import explain, save

TABLE = Path(__file__).resolve().parent / "QUERIES.md"
METHODS, COUNTS = ("gradcam", "legrad"), (1, 4, 16)


class Tower(nn.Module):
    """Images to embeddings (B, 512)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        torch.manual_seed(0)
        self.tower = CLIPVisionModelWithProjection(CLIPVisionConfig())  # which is ViT-B/32

    def forward(self, image: Tensor) -> Tensor:
        embeddings: Tensor = self.tower(image).image_embeds
        return embeddings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queries", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="to see that it runs, not to quote")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    effort = Effort(seconds=20, at_least=15, at_most=200, warm_up=3, burst=0.3)
    if options.quick:
        effort = Effort(seconds=0, at_least=1, at_most=1, warm_up=1)
    machine = machine_facts(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.threads, effort)
    options.output.write_text(render(rows, machine))
    print(options.output.read_text())


def measure(folder: Path, threads: int, effort: Effort) -> dict[tuple[str, int], Comparison]:
    """The tower with maps beside the tower alone, for each method and number of queries."""
    tower, image = Tower().eval(), torch.randn(1, 3, 224, 224)
    write_plain(tower, image, folder / "plain.onnx", dynamic_size=False)
    plain = Session(folder / "plain.onnx", "cpu", threads)
    queries = np.random.default_rng(0).normal(size=(max(COUNTS), 512)).astype(np.float32)
    rows = {}
    for method in METHODS:
        path = folder / f"{method}.onnx"
        save(explain(tower, image, method=method, target="similarity"), path)
        for count in COUNTS:
            given = {"queries": queries[None, :count], "class_ids": np.arange(count)[None]}
            contender = Session(path, "cpu", threads, given)
            check(plain(image.numpy()), contender(image.numpy()), queries[:count])
            rows[method, count] = alternate(
                lambda: plain(image.numpy()),
                lambda contender=contender: contender(image.numpy()),
                effort,
            )
            print(method, count, rows[method, count], flush=True)
    return rows


def check(
    plain: Sequence[NDArray[Any]], explained: Sequence[NDArray[Any]], queries: NDArray[np.float32]
) -> None:
    """Raises a `ValueError` unless the embedding is the tower's, the scores are its cosines with
    the queries, and each query has a map.
    """
    (embedding,), (own, scores, _, maps) = plain, explained
    unit = [each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (embedding, queries)]
    for name, ours, theirs in (
        ("embedding", own, embedding),
        ("scores", scores, unit[0] @ unit[1].T),
    ):
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
            raise ValueError(f"the file's {name} are off by {np.abs(ours - theirs).max():.1e}")
    if maps.shape[1] != len(queries):
        raise ValueError(f"{maps.shape[1]} maps for {len(queries)} queries")
    for each in maps[0]:
        check_map(each)


def render(rows: dict[tuple[str, int], Comparison], machine: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Maps of queries",
        "",
        "Written by `python -m benchmarks.queries`. The image tower of CLIP ViT-B/32 (from "
        "transformers' configuration,",
        "random weights) at 224 x 224 with a map for each query, beside the tower alone, in "
        "onnxruntime and in turn:",
        "medians of ratios, quartiles in brackets.",
        "",
        "| method | queries | time, beside the tower | milliseconds | the tower's |",
        "|---|---|---|---|---|",
    ]
    for (method, count), row in rows.items():
        low, median, high = row.ratio
        lines.append(
            f"| {method} | {count} | {median:.2f}x ({low:.2f} to {high:.2f}) "
            f"| {1e3 * row.contender[1]:.1f} | {1e3 * row.baseline[1]:.1f} |"
        )
    return "\n".join([*lines, "", f"Measured on: {described(machine)}.", ""])


if __name__ == "__main__":
    main()
