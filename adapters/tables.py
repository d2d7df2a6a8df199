"""Tables of the command line: plain values in, a `rich.table.Table` out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from camcore.adapters.files import Port
from camcore.card import Card, ImageSpec
from camcore.methods import Method

if TYPE_CHECKING:
    from camcore.export.layers import LayerInfo

_NAME_WIDTH = 40  # of a layer; half of a terminal of 80 columns


def predictions_table(result: dict[str, Any]) -> Table:
    """One image's best and explained classes, the explained ones in bold."""
    table = Table("class", "index", "score", "map peak (x, y)", title=escape(result["image"]))
    peaks = {explained["class"]: explained for explained in result["explained"]}
    listed = {prediction["class"]: prediction for prediction in result["predictions"]}
    for index, entry in {**listed, **peaks}.items():
        explained = peaks.get(index)
        if explained is None:
            place = ""
        elif explained["peak"] is None:
            place = "the map is zero"
        else:
            place = f"{explained['peak']['x']:g}, {explained['peak']['y']:g}"
        table.add_row(
            escape(entry["name"]),
            str(index),
            f"{entry['score']:.3f}",
            place,
            style="bold" if explained else None,
        )
    return table


def card_table(file: Path, card: Card) -> Table:
    """What a file says of itself."""
    table = Table("", "", title=escape(str(file)), show_header=False)
    names = card.class_names or ("unnamed",)
    more = ", ..." if len(names) > 3 else ""
    sizes = f"{card.image.height or 'any'} x {card.image.width or 'any'} (height x width)"
    rows = {
        "model": card.model or "unnamed",
        "method": card.method,
        "layer": card.layer,
        "options": _pairs(card.options) or "none",
        "classes": f"{card.num_classes}: {', '.join(names[:3])}{more}",
        "image": f"{card.image.dtype} {card.image.colour}, {sizes}",
        "prepared by": _preparation(card.image),
        "mean, std": f"{card.image.mean}, {card.image.std}",
        "outputs": ", ".join(card.outputs),
        "map size": card.map_size,
        "proof": _pairs(card.proof) or "none",
        "notes": "; ".join(card.notes) or "none",
        "versions": _pairs(card.versions) or "none",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def ports_table(inputs: Sequence[Port], outputs: Sequence[Port]) -> Table:
    """An ONNX graph's inputs and outputs."""
    table = Table("graph", "name", "type", "shape")
    for kind, ports in (("input", inputs), ("output", outputs)):
        for port in ports:
            name = f"{port.name} (optional)" if port.optional else port.name
            table.add_row(kind, escape(name), port.dtype, " x ".join(map(str, port.shape)))
    return table


def methods_table(methods: Iterable[Method]) -> Table:
    """What each method computes, what it costs, and where it comes from."""
    table = Table(title="methods", show_header=False, show_lines=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for method in methods:
        cost = f"costs, beside the prediction: {method.passes}"
        table.add_row(method.name, f"{method.summary}\n{cost}\n{method.paper}")
    return table


def layers_table(model: str, layers: "Iterable[LayerInfo]") -> Table:
    """A model's layers in the order of execution, the default in bold."""
    layers = list(layers)
    table = Table(title=escape(f"layers of {model}"))
    # Names stay in one piece, to be copied, as long as the other columns have room.
    longest = max((len(layer.name) for layer in layers), default=0)
    table.add_column("layer", overflow="fold", width=max(min(longest, _NAME_WIDTH), len("layer")))
    table.add_column("kind")
    table.add_column("output", no_wrap=True)
    table.add_column("usable", overflow="fold")
    for layer in layers:
        table.add_row(
            escape(layer.name),
            layer.kind,
            " x ".join(map(str, layer.shape)),
            "default"
            if layer.default
            else "yes"
            if layer.usable
            else escape(f"no: {layer.reason}"),
            style="bold" if layer.default else None if layer.usable else "dim",
        )
        if layer.default:
            table.caption = escape(f"the default, {layer.name}: {layer.reason}")
    return table


def _preparation(spec: ImageSpec) -> str:
    """What `camcore.adapters.images.prepare` does to an image before it normalises."""
    steps = []
    if spec.resize is not None:
        steps.append(f"shorter side to {spec.resize}, {spec.interpolation}")
    if spec.crop is not None:
        steps.append(f"middle {spec.crop[0]} x {spec.crop[1]} cut out")
    return "; ".join(steps) or "no resizing, no cropping"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
