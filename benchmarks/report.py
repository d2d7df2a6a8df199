"""The results as rows: one line each on the screen, JSON for machines, tables for readers."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.timing import Comparison, Spread

SECTIONS = {
    "last block": "Time of the explained file beside the plain file, both in onnxruntime: batch 1, "
    "224 x 224, the best class, the default layer. `free` files take any height and width.",
    "file size": "The same files. PyTorch notes stack traces in what it writes, camcore does not: "
    "the ratio compares with the plain file stripped of them, `as_written_ratio` with the file as "
    "it was written.",
    "earlier layers": "Time at earlier layers, size fixed. The limit is 1.15 x (1 + tail share), "
    "where the tail share is the part of the model's multiply-accumulates (convolutions and linear "
    "layers) that lies behind the layer: the way back through it costs about what the way there "
    "did.",
    "pytorch-grad-cam": "pytorch-grad-cam in eager PyTorch beside the explained file in "
    "onnxruntime, size fixed: same model object, layer, image and number of threads, called as its "
    "README does, class left open. Times are compared only where no value of the two maps, on "
    "their scale from 0 to 1, differs by more than 1e-3.",
    "export": "`camcore.export.explain` and `save`, the proof of the file included, beside "
    "`torch.onnx.export`, with the same freedom.",
    "first run": "Import, load and first run in a fresh interpreter: `camcore.adapters.load` with "
    "the explained file, beside onnxruntime alone with the plain file, both with onnxruntime's own "
    "number of threads. That torch was not imported was checked.",
}


@dataclass(frozen=True)
class Row:
    """One comparison: `ratio` is contender / baseline, `limit` bounds it from above or below.

    Ratios are (lower quartile, median, upper quartile), times medians in milliseconds. A row whose
    contenders did not compute the same has none of them, and says why in `refused`; one that is not
    about time has `facts` alone.
    """

    section: str
    model: str
    layer: str
    size: str
    device: str
    baseline: str
    contender: str
    limit: float | None = None
    limit_kind: Literal["at most", "at least"] = "at most"
    ratio: Spread | None = None
    baseline_ms: float | None = None
    contender_ms: float | None = None
    pairs: int = 0
    refused: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether the median ratio keeps the limit; empty where there is none."""
        if self.refused:
            return "refused"
        if self.limit is None or self.ratio is None:
            return ""
        median = self.ratio[1]
        kept = median <= self.limit if self.limit_kind == "at most" else median >= self.limit
        return "met" if kept else "missed"


def timed(comparison: Comparison) -> dict[str, Any]:
    """The fields of a row that a comparison fills."""
    return {
        "ratio": tuple(round(ratio, 4) for ratio in comparison.ratio),
        "baseline_ms": round(1000 * comparison.baseline[1], 3),
        "contender_ms": round(1000 * comparison.contender[1], 3),
        "pairs": comparison.pairs,
    }


def machine_facts(threads: int) -> dict[str, Any]:
    """Where and with what the figures were taken."""
    distributions = "camcore torch torchvision onnx onnxscript onnxruntime onnxruntime-gpu numpy"
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        # Other work on the machine would be in the figures: this many threads ran before the start.
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for name in [*distributions.split(), "grad-cam", "torchcam", "captum"]:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = None
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return facts


def described(machine: Mapping[str, Any]) -> str:
    """What is known of a machine, in words."""
    return ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def line(row: Row) -> str:
    """The row as one line that needs no heading."""
    subject = ", ".join(
        part for part in (f"{row.model} {row.layer}".strip(), row.size, row.device) if part
    )
    what = f"{row.section}: {subject}: {row.contender} / {row.baseline}"
    if row.refused:
        return f"{what}: refused, {row.refused}"
    parts = [f"{what} = {_ratio(row.ratio)}" if row.ratio else what]
    if row.limit is not None:
        parts.append(f"{row.limit_kind} {row.limit:g}x: {row.verdict}")
    if row.baseline_ms and row.contender_ms:
        parts.append(f"{row.contender_ms:.1f} ms / {row.baseline_ms:.1f} ms, {row.pairs} pairs")
    parts += [f"{_label(name)} {_fact(name, value)}" for name, value in row.facts.items()]
    return "; ".join(parts)


def markdown_table(records: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of records with the same keys; empty columns are left out.

    >>> print(markdown_table([{"model": "a", "ratio": "1.0x", "limit": ""}]))
    | model | ratio |
    |---|---|
    | a | 1.0x |
    """
    columns = [name for name in records[0] if any(record[name] for record in records)]
    lines = [columns, *([record[name] for name in columns] for record in records)]
    head, *body = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, f"|{'---|' * len(columns)}", *body])


def render(results: Mapping[str, Any]) -> str:
    """RESULTS.md from the content of results.json."""
    rows = [Row(**row) for row in results["rows"]]
    text = [
        "# Benchmark",
        "Written by `make bench` from `results.json`; do not edit. "
        + ("**A quick run: too few pairs to quote.** " if results["quick"] else "")
        + "Models are torchvision's with weights=None: seeded, batch-norm statistics calibrated on "
        "noise. The two contenders of a row take turns in one process after warm-up, a tenth of a "
        "second at a time where they run, an export at a time; a ratio is the median of the pairs' "
        "ratios, quartiles in brackets.",
        f"Machine: {described(results['machine'])}.",
        f"CUDA: {results['cuda']}.",
    ]
    text += markdown_sections(rows, SECTIONS)
    text += ["## install size", _install(results["install"])]
    return "\n\n".join(text) + "\n"


def markdown_sections(rows: Sequence[Row], sections: Mapping[str, str]) -> list[str]:
    """A heading, an explanation and a table for each section that has rows."""
    text = []
    for section, explanation in sections.items():
        records = [_record(row) for row in rows if row.section == section]
        if records:
            text += [f"## {section}", explanation, markdown_table(_aligned(records))]
    return text


def _record(row: Row) -> dict[str, str]:
    record = {
        "model": row.model,
        "layer": row.layer,
        "size": row.size,
        "device": row.device,
        f"{row.contender} / {row.baseline}": _ratio(row.ratio) if row.ratio else row.refused,
        "limit": "" if row.limit is None else f"{row.limit_kind} {row.limit:g}x",
        "verdict": row.verdict,
        f"{row.baseline}, ms": f"{row.baseline_ms:.1f}" if row.baseline_ms else "",
        f"{row.contender}, ms": f"{row.contender_ms:.1f}" if row.contender_ms else "",
        "pairs": str(row.pairs or ""),
    }
    return record | {_label(name): _fact(name, value) for name, value in row.facts.items()}


def _aligned(records: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The records with each other's keys, in the order of their first appearance."""
    names = dict.fromkeys(name for record in records for name in record)
    return [{name: record.get(name, "") for name in names} for record in records]


def _install(sizes: Mapping[str, int] | None) -> str:
    if sizes is None:
        return "Not measured (--no-install-size)."
    lines = [f"- {name}: {size / 1e6:.0f} MB" for name, size in sizes.items()]
    return "\n".join(["Files without byte code, everything required included:", "", *lines])


def _ratio(ratio: Iterable[float]) -> str:
    low, median, high = ratio
    brackets = "" if low == high else f" [{low:.2f}, {high:.2f}]"
    return f"{median:.3f}x{brackets}"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _fact(name: str, value: Any) -> str:
    if name.endswith("share"):
        return f"{value:.1%}"
    if name.endswith("ratio"):
        return f"{value:.3f}x"
    if name.endswith("SSIM"):
        return f"{value:.3f}"
    return f"{value:.1e}" if name.endswith("difference") else str(value)
