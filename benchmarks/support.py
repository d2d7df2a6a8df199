"""The page of the support matrix, `docs/SUPPORT.md`: what a reader needs of its table."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.cells import FORMATS, LAYERS, OPTIONS, OUTCOMES, Cell
from benchmarks.families import FAMILIES
from benchmarks.report import described, markdown_table
from camcore.export.prove.prove import TOLERANCE
from camcore.methods import METHODS

TABLE = "support.tsv"
MEANINGS = {
    "exact": f"proven, the worst relative error is at most {TOLERANCE:.0e}",
    "rounding": "proven, as near to double precision as single precision comes, which for this "
    f"model and method is further than {TOLERANCE:.0e}",
    "not applicable": "the method asks for what the model does not have",
    "failed": "no file: see below",
    "timeout": "no answer in the time allowed: see below",
    "not run": "not run",
}


def render(cells: Sequence[Cell], versions: Mapping[str, str]) -> str:
    """SUPPORT.md from the content of the table."""
    counts = _counts(cells, len(FAMILIES) * len(LAYERS) * len(METHODS) * len(FORMATS))
    legend = [f"- {name}: {MEANINGS[name]} ({count})" for name, count in counts.items() if count]
    text = [
        "# Support",
        f"Written by `make matrix` from [`{TABLE}`]({TABLE}), which has all results, a line for "
        "each model, layer and method, and why a method does not apply; do not edit. Models have "
        "random weights, which were calibrated so that maps are telling; the names before a slash "
        "are libraries, the others are torchvision's. Counted are files: of each model at its "
        "default layer and at one before it, by each method, as "
        f"{', '.join(f'`{suffix}`' for suffix in FORMATS)}.",
        "\n".join(legend),
        f"Methods of many passes are cut short, and a random map is not rectified: {_options()}.",
        f"Versions: {described(versions)}.",
        "## Models",
        "`size` says whether height and width of the files are free, `worst` is the worst relative "
        "error among them.",
        markdown_table([_model(model, cells) for model in FAMILIES]),
        "## Methods",
        markdown_table([_method(method, cells) for method in METHODS]),
    ]
    for outcome, title in (("failed", "What fails"), ("timeout", "What takes too long")):
        lines = _reasons(cell for cell in cells if cell.outcome == outcome)
        if lines:
            text += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(text) + "\n"


def _options() -> str:
    of_models = [
        f"{name}'s {_told(each.options)}" for name, each in FAMILIES.items() if each.options
    ]
    return "; ".join([_told(OPTIONS), *of_models])


def _told(options: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{method} with " + ", ".join(f"`{name}={value}`" for name, value in each.items())
        for method, each in options.items()
    )


def _counts(cells: Iterable[Cell], total: int) -> dict[str, int]:
    """How many cells came to each outcome; of the total, those not among them were not run."""
    found = Counter(cell.outcome for cell in cells)
    return {name: found[name] for name in OUTCOMES} | {"not run": total - found.total()}


def _model(model: str, cells: Iterable[Cell]) -> dict[str, str]:
    ours = [cell for cell in cells if cell.model == model]
    default = next((cell.module for cell in ours if cell.layer == "default" and cell.module), "")
    sizes = dict.fromkeys(cell.size for cell in ours if cell.size)
    return {
        "model": model,
        "default layer": f"`{default}`" if default else "",
        "earlier layer": f"`{FAMILIES[model].earlier}`",
        "size": ", ".join(sizes),
        **_marks(ours, len(LAYERS) * len(METHODS) * len(FORMATS)),
    }


def _method(method: str, cells: Iterable[Cell]) -> dict[str, str]:
    ours = [cell for cell in cells if cell.method == method]
    return {"method": method, **_marks(ours, len(FAMILIES) * len(LAYERS) * len(FORMATS))}


def _marks(cells: Sequence[Cell], total: int) -> dict[str, str]:
    errors = [cell.error for cell in cells if cell.error is not None]
    counts = {name: str(count or "") for name, count in _counts(cells, total).items()}
    return {**counts, "worst": f"{max(errors):.1e}" if errors else ""}


def _reasons(cells: Iterable[Cell]) -> list[str]:
    """For each model and reason, the files that it stands in the way of."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        # The same reason names several layers, so it is told once for each.
        files = found.setdefault((cell.model, cell.layer, cell.reason), [])
        files.append(f"{cell.method} {cell.format}")
    return [
        f"- {model}, {layer} layer, {', '.join(files)}: {reason}"
        for (model, layer, reason), files in found.items()
    ]
