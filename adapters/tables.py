"""Tables of the command line: plain values in, a `rich.table.Table` out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from camcore.adapters.onnx_content import Port
from camcore.card import Card, ImageSpec
from camcore.methods import METHODS, Method

if TYPE_CHECKING:
    from camcore.export.find.layers import LayerInfo

# In the table of layers.
_GAP = 3  # columns between two cells
_KIND_WIDTH = 8  # columns below which a class name cut short tells nothing


# What maps show, for a target other than the class's logit.
_TARGETS = {
    "probability": "the class's softmax probability",
    "rest": "the class's logit against those of all others",
    "finer": "what tells the class from those most like it",
    "binary": "the answer, 0 no and 1 yes",
    "value": "the model's value",
    "segmentation": "the class's pixels together",
    "similarity": "the cosine of the image's embedding with the query",
    "dot": "the inner product of the image's embedding with the query",
    **{
        edge: f"what moves the box's {edge} edge to larger coordinates"
        for edge in ("left", "top", "right", "bottom")
    },
    "width": "what makes the box wider",
    "height": "what makes the box higher",
    "match": "what the detection needs to be found again",
    "matches": "what the detections need to be found again, all together",
}


# What makes probabilities of scores.
_PROBABILITIES = {
    "softmax": "softmax of the scores",
    "sigmoid": "sigmoid of each score",
    "scores": "the scores themselves",
    "none": "none",
}


def target_of(card: Card) -> str:
    """The name of the target that a file explains."""
    return str(card.options.get("target", "logit"))


def _chosen_output(card: Card) -> str | None:
    """The output that is explained, where there is a choice."""
    return card.explained if len(card.own_outputs) > 1 else None


def target_suffix(card: Card) -> str:
    """What stands behind the layer where something else than a logit is explained."""
    target = target_of(card)
    return "" if target == "logit" else escape(f", target {target}")


def predictions_table(result: Mapping[str, Any], card: Card) -> Group:
    """One image's best and explained classes, the explained ones in bold, and notes below."""
    peaks = {explained["class"]: explained for explained in result["explained"]}
    listed = {prediction["class"]: prediction for prediction in result["predictions"]}
    entries = {**listed, **peaks}
    scored = any(entry["score"] is not None for entry in entries.values())
    probable = any(entry["probability"] is not None for entry in entries.values())
    table = Table("class", "index")
    if probable:
        table.add_column("probability", justify="right")
    if scored:
        table.add_column("score", justify="right")
    told = next((each["peak"] for each in result["explained"] if each["peak"]), None)
    axes = told or ("ijk" if card.image.spatial_ndim == 3 else "xy")
    table.add_column(f"map peak ({', '.join(axes)})")
    for index, entry in entries.items():
        explained = peaks.get(index)
        if explained is None:
            place = ""
        elif explained["peak"] is None:
            place = "none"
        else:
            place = ", ".join(f"{length:g}" for length in explained["peak"].values())
        figures = [f"{entry['probability']:.1%}"] if probable else []
        figures += [f"{entry['score']:.3f}"] if scored else []
        style = "bold" if explained else None
        table.add_row(escape(entry["name"]), str(index), *figures, place, style=style)
    # Above the table and not as its title, which would be broken at the table's width.
    title = Text(result["image"], style="italic", overflow="fold")
    return Group(title, table, *map(escape, _prediction_notes(card, scored)))


def detections_table(result: Mapping[str, Any], card: Card) -> Group:
    """What a detector found in one image and explained."""
    table = Table("class", "index", "score", "box (x1, y1, x2, y2)", "map peak (x, y)")
    for entry in result["explained"]:
        ((x1, y1, x2, y2),) = [found["box"] for found in entry["boxes"]]
        peak = entry["peak"]
        table.add_row(
            escape(entry["name"]),
            str(entry["class"]),
            f"{entry['score']:.3f}",
            f"{x1:g}, {y1:g}, {x2:g}, {y2:g}",
            "none" if peak is None else f"{peak['x']:g}, {peak['y']:g}",
        )
    title = Text(result["image"], style="italic", overflow="fold")
    target = target_of(card)
    notes = (
        []
        if target == "logit"
        else [f"The maps show {_TARGETS.get(target, f'the target {target}')}."]
    )
    return Group(title, table if result["explained"] else "nothing found", *notes)


def prediction_line(result: Mapping[str, Any], card: Card) -> str:
    """One image's best class and the explained ones in a line, each with what it scores."""
    best = result["predictions"][:1]
    others = [
        each for each in result["explained"] if each["class"] not in [b["class"] for b in best]
    ]
    from camcore.adapters.results import caption_text  # with NumPy and Pillow, for runs alone

    told = ", ".join(caption_text(entry) for entry in [*best, *others])
    return escape(f"{result['image']}: {told}")


def _prediction_notes(card: Card, scored: bool) -> Iterator[str]:
    target = target_of(card)
    output = _chosen_output(card)
    if output is not None:
        yield f"The model gives {', '.join(card.own_outputs)}; explained is {output}."
    if target != "logit":
        yield f"The maps show {_TARGETS.get(target, f'the target {target}')}."
    method = METHODS.get(card.method)
    if method is not None and not method.class_specific:
        yield f"{card.method} gives every class the same map."
    if not scored:
        yield "The file gives no scores of whole classes."
    elif card.probabilities == "scores":
        yield "The model's scores are probabilities already."


def card_table(file: Path, card: Card) -> Table:
    """What a file says of itself."""
    table = Table("", "", title=escape(str(file)), show_header=False)
    for name, value in card_rows(card).items():
        table.add_row(name, escape(value))
    return table


def card_rows(card: Card) -> dict[str, str]:
    """What a card says, by what that is called."""
    space = card.image.space
    sizes = f"{' x '.join(str(n or 'any') for n in space.values())} ({' x '.join(space)})"
    in_graph = card.image.dtype == "uint8"
    rows = {
        "model": card.model or "unnamed",
        "method": card.method,
        "layer": card.layer,
        "target": " of ".join(filter(None, (target_of(card), _chosen_output(card)))),
        "options": _pairs(_own_options(card)) or "none",
        "maps": _maps(card),
        "boxes": _boxes(card),
        "concepts": "none" if card.concepts is None else f"{card.concepts} of the layer's",
        "classes": _classes(card),
        "explained": _explained(card),
        "image": f"{card.image.dtype} {_colours(card.image)}, {sizes}"
        + (", channels last" if in_graph else ""),
        "prepared by": preparation(card.image),
        "mean, std": f"{card.image.mean}, {card.image.std}"
        + (", in the graph" if in_graph else ""),
        "assumed": assumptions(card.image),
        "probabilities": _PROBABILITIES.get(card.probabilities or "", "as the target says"),
        "inputs": ", ".join(card.graph_inputs),
        "outputs": ", ".join(card.graph_outputs),
        "proof": _pairs(card.proof) or "none",
        "notes": "; ".join(card.notes) or "none",
        "versions": _pairs(card.versions) or "none",
    }
    return {name: value for name, value in rows.items() if value}


def _classes(card: Card) -> str:
    """How many there are and the first of their names, or what is there in their place."""
    if card.queries is not None:
        return f"the queries, vectors of {card.queries}"
    names = card.class_names or ("unnamed",)
    return f"{card.num_classes}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _explained(card: Card) -> str:
    """How the file learns which classes to explain."""
    if card.shares_map:
        return "the image as a whole"
    if card.is_detector:
        return f"the first {card.top} detections"
    return {
        "required": "those of the input class_ids, -1 in column k for the k-th best",
        "optional": "those of the input class_ids, by default the best",
        "best": f"the {card.top} best" if card.top > 1 else "the best",
        "all": "all",
    }[card.class_ids]


# Of the options on a card, those that every method has; they are told in words.
_COMMON = (
    "target",
    "relu",
    "normalize",
    "combine",
    "eigen_smooth",
    "aug_smooth",
    "box_confidence",
)


def _own_options(card: Card) -> dict[str, Any]:
    """The method's own options; None stands for what the exporter chose."""
    return {
        name: value
        for name, value in card.options.items()
        if name not in _COMMON and value is not None
    }


def _maps(card: Card) -> str:
    """How the maps were made of what the method gave."""
    options = card.options
    size = "at image size" if card.map_size == "image" else "at the layer's size"
    parts = ["in [0, 1]" if options.get("normalize", True) else "as the method gives them", size]
    if not options.get("relu", True):
        parts.append("no relu")
    if ", " in card.layer:
        parts.append(f"{options.get('combine', 'mean')} of the layers")
    if options.get("eigen_smooth"):
        parts.append("smoothed by the first component")
    if options.get("aug_smooth"):
        parts.append("mean over six variants of the image")
    if card.steps is not None:
        parts.append(f"in {card.steps} steps")
    return ", ".join(parts)


def _boxes(card: Card) -> str:
    """What boxes the file gives, and what their scores are."""
    if card.is_detector:
        return "those that the detector finds"
    if card.boxes is None:
        return "none"
    confidence = card.options.get("box_confidence", "none")
    times = "" if confidence == "none" else f", times the {confidence} of the class's score"
    return (
        f"up to {card.boxes} on each map, above Otsu's threshold; scored by the map's mean{times}"
    )


def ports_table(inputs: Sequence[Port], outputs: Sequence[Port]) -> Table:
    """An ONNX graph's inputs and outputs."""
    table = Table("graph", "name", "type", "shape")
    for kind, ports in (("input", inputs), ("output", outputs)):
        for port in ports:
            name = f"{port.name} (optional)" if port.optional else port.name
            table.add_row(kind, escape(name), port.dtype, " x ".join(map(str, port.shape)))
    return table


def methods_list(methods: Iterable[Method]) -> Group:
    """What each method computes, what it needs and costs, and where it comes from."""
    parts: list[RenderableType] = []
    for method in methods:
        parts.append(Text(method.name, style="bold"))
        parts.append(Padding(Text("\n".join(_method_lines(method))), (0, 0, 1, 2)))
    return Group(*parts, "What a method costs comes on top of the prediction.")


def _method_lines(method: Method) -> Iterator[str]:
    cost = "no further pass" if method.passes == "none" else method.passes
    yield method.summary
    yield f"needs {method.needs.replace('_', ' ')}; costs {cost}"
    traits = [] if method.class_specific else ["the same map for every class"]
    if method.options:
        # Written as `--option` wants them.
        options = ", ".join(f"{name}={_default(v)}" for name, v in method.options.items())
        traits.append(f"options {options}")
    if method.weights is not None:
        traits.append("eigen-smooth possible")
    if traits:
        yield "; ".join(traits)
    yield method.paper


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value or "none")


def layers_table(
    model: str, layers: "Iterable[LayerInfo]", *, everything: bool = False, width: int = 80
) -> Group:
    """A model's layers in the order of execution, for a terminal of that width, and notes below.

    The default is marked with a star, and in bold. Layers that cannot be explained are listed with
    `everything`; why they cannot is noted either way. Names come before the modules' kinds, which
    are cut short or left out where the terminal is too narrow.
    """
    layers = list(layers)
    reasons = Counter(layer.reason for layer in layers if not layer.usable)
    marks = {reason: str(number) for number, reason in enumerate(reasons, start=1)}
    shown = [layer for layer in layers if layer.usable or everything]
    rows = [
        [
            "*" if layer.default else marks.get(layer.reason, ""),
            escape(layer.name),
            " x ".join(map(str, layer.shape)),
            layer.kind,
        ]
        for layer in shown
    ]
    table = _layer_columns(rows, width)
    table.title = escape(f"layers of {model}")
    for layer, row in zip(shown, rows, strict=True):
        style = "bold" if layer.default else None if layer.usable else "dim"
        table.add_row(*row[: len(table.columns)], style=style)
    return Group(table, "", escape("\n".join(_layer_notes(layers, reasons, marks, everything))))


def _layer_columns(rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table without rows, as wide as these ask for, or as the terminal allows."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left")
    headed = [["", "layer", "output"], *rows]
    mark, name, shape = (max(len(row[column]) for row in headed) for column in range(3))
    room = max(width - shape - mark - 3 * _GAP, len("layer"))
    table.add_column(width=mark)
    # In one piece, to be copied, if at all possible.
    table.add_column("layer", overflow="fold", width=min(name, room))
    table.add_column("output", no_wrap=True)
    if room - name >= _KIND_WIDTH:
        table.add_column("kind", no_wrap=True, overflow="ellipsis", max_width=room - name)
    return table


def _layer_notes(
    layers: "Iterable[LayerInfo]",
    reasons: Mapping[str, int],
    marks: Mapping[str, str],
    everything: bool,
) -> Iterator[str]:
    """What stands below a table of layers: which is the default, and why some cannot be used."""
    for layer in layers:
        if layer.default:
            yield f"* {layer.name} is the default: {layer.reason}"
    if reasons and not everything:
        yield "Left out, listed with --all:"
    for reason, count in reasons.items():
        what = marks[reason] if everything else f"{count} layer{'s' if count > 1 else ''}"
        yield f"{what}: {reason}"


def preparation(spec: ImageSpec) -> str:
    """What `camcore.adapters.images.prepare` does to an image before it normalises."""
    steps = []
    if isinstance(spec.resize, tuple):
        steps.append(f"stretched to {_by(spec.resize)}, {spec.interpolation}")
    elif spec.resize is not None:
        steps.append(f"shorter side to {spec.resize}, {spec.interpolation}")
    if spec.crop is not None:
        steps.append(f"middle {_by(spec.crop)} cut out")
    size = (spec.height, spec.width)
    if spec.spatial_ndim == 2 and any(size) and size != (spec.crop or spec.resize):
        axes = " x ".join(str(length or "its own") for length in size)
        steps.append(f"stretched to {axes}, {spec.interpolation}")
    return "; ".join(steps) or "no resizing, no cropping"


def assumptions(spec: ImageSpec) -> str:
    """What is assumed of a model's images, empty where nothing is."""
    told = {
        "mean": f"mean {_numbers(spec.mean)}",
        "std": f"std {_numbers(spec.std)}",
        "colour": spec.colour,
    }
    parts = [text for name, text in told.items() if name in spec.assumed]
    if {"resize", "crop"} & set(spec.assumed):
        parts.append(preparation(spec))
    return ", ".join(parts)


def assumed_options(spec: ImageSpec) -> str:
    """The options of the command line that state what is assumed."""
    return ", ".join(f"--{name}" for name in spec.assumed)


def _colours(spec: ImageSpec) -> str:
    return {1: "grey", 3: spec.colour}.get(spec.channels, f"{spec.channels} channels")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
