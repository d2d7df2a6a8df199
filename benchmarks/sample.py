"""A sample of the support matrix that sees every family and every method, and how long it takes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from benchmarks.cells import FORMATS, LAYERS, Cell, Place
from benchmarks.families import FAMILIES
from camcore.methods import METHODS

METHODS_OF_A_FAMILY = 2
CHEAPEST = ".pt"
# Seconds that a process takes to import its libraries, and to build, calibrate and trace a model.
START = 20


def choose(known: Mapping[Place, Cell]) -> list[Cell]:
    """The same few cells for each family, whatever was known of them but what does not apply.

    Families take turns in the layer. Each has the methods that had the fewest families before it,
    among those that apply to it: one in the format that is cheapest, one in each format in turn.
    """
    seen: Counter[str] = Counter()
    chosen = []
    for n, model in enumerate(FAMILIES):
        layer = LAYERS[n % len(LAYERS)]
        apply = [method for method in METHODS if _applies(known, model, layer, method)]
        # A stable sort: of methods seen alike, those that the registry names first.
        methods = sorted(apply, key=lambda method: seen[method])[:METHODS_OF_A_FAMILY]
        seen.update(methods)
        formats = (CHEAPEST, FORMATS[n % len(FORMATS)])
        chosen += [Cell(model, layer, *pair) for pair in zip(methods, formats, strict=False)]
    return chosen


def _applies(known: Mapping[Place, Cell], model: str, layer: str, method: str) -> bool:
    cells = [known.get((model, layer, method, suffix)) for suffix in FORMATS]
    return all(cell is None or cell.outcome != "not applicable" for cell in cells)


def estimate(cells: Sequence[Cell], known: Mapping[Place, Cell]) -> float:
    """About how many seconds cells will take, from those of the same or of other cells."""
    some = [cell.seconds for cell in known.values() if cell.outcome != "not applicable"]
    typical = sum(some) / len(some) if some else 30.0
    total = 0.0
    for _, group in groupby(cells, lambda cell: (cell.model, cell.layer)):
        total += START + sum(
            known[cell.place].seconds if cell.place in known else typical for cell in group
        )
    return total
