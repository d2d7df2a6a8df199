"""The card: what a file says of itself, so that running it needs the file and an image and nothing
else.

An exported file carries the card as JSON under the metadata key `camcore`; `camcore.seal` puts it
there. Only the standard library is imported: the production side reads cards without torch and
without onnx.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from camcore._fields import from_fields
from camcore.errors import FileError

KEY = "camcore"
SCHEMA = 2

# How a file learns which classes it is to explain.
CLASS_IDS = ("required", "optional", "best", "all")

Probabilities = Literal["softmax", "sigmoid", "scores", "none"]

# The input that a file takes behind the model's own if it compares embeddings.
QUERIES = "queries"

# ImageNet's, for what nobody states.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSpec:
    """How an image becomes the graph input `image`.

    The shorter side is resized to `resize` pixels, then the centre `crop` (height, width) is cut
    out, as in torchvision; either may be None (not done). A `resize` of two numbers is a height and
    a width that the image is stretched to. Pixels are scaled to [0, 1], then
    normalised with `mean` and `std`, one value per channel. With dtype `uint8` the graph does the
    scaling and normalising itself and takes (B, H, W, C); with `float32` it takes (B, C, H, W).

    `height` and `width` are the sizes the graph accepts, None where any size is accepted. With
    `spatial_ndim` 3 it takes volumes (B, C, D, H, W), of which `depth` is the first size; with 1 it
    takes (B, C, L), and `width` is the length. With `frames` it takes videos frame by frame,
    (B, T, C, H, W), and `depth` is T. `assumed` names those of the fields above that
    nobody stated, neither the model nor whoever exported it.
    """

    height: int | None
    width: int | None
    channels: int = 3
    dtype: str = "float32"
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    colour: str = "RGB"
    depth: int | None = None
    spatial_ndim: int = 2
    frames: bool = False
    assumed: tuple[str, ...] = ()

    @property
    def space(self) -> dict[str, int | None]:
        """The spatial axes in order, with their sizes.

        >>> ImageSpec(None, 500, spatial_ndim=1).space
        {'length': 500}
        """
        first = "frames" if self.frames else "depth"
        names = ("length",) if self.spatial_ndim == 1 else (first, "height", "width")
        sizes = (self.depth, self.height, self.width)
        start = -self.spatial_ndim
        return dict(zip(names[start:], sizes[start:], strict=True))

    @property
    def is_any_size(self) -> bool:
        """Whether images of any size are accepted."""
        return not any(self.space.values())


def assume_image(size: tuple[int, int], channels: int = 3, **stated: Any) -> ImageSpec:
    """The spec for a model that was tried on images of a size (height, width), from what is stated.

    The rest is assumed, and said to be: ImageNet's mean and standard deviation, or none where the
    channels are not three; RGB; the shorter side at the size's and the middle cut out where that is
    square, else stretched to it.

    >>> assume_image((224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).assumed
    ('resize', 'crop', 'colour')
    """
    rgb = channels == 3
    square = size[0] == size[1]
    assumed = {
        "mean": _MEAN if rgb else (0.0,) * channels,
        "std": _STD if rgb else (1.0,) * channels,
        "resize": size[0] if square else size,
        "crop": size if square else None,
        **({"colour": "RGB"} if rgb else {}),
    }
    if {"resize", "crop"} & set(stated):  # whoever states one means the other not to be done
        assumed |= {"resize": None, "crop": None}
        stated = {"resize": None, "crop": None} | stated
    left = tuple(name for name in assumed if name not in stated)
    return ImageSpec(None, None, **(assumed | {"channels": channels} | stated), assumed=left)


@dataclass(frozen=True)
class Card:
    """Everything a runner needs to know about an exported file.

    `inputs` and `outputs` are the graph's, in order; `explained` is that of the outputs which the
    maps explain, None where they explain something made of all of them; `map_size` is `image` or
    `feature`; `options` are those of the method and of its post-processing; `proof` says what the
    file was checked against and the worst relative error found. `boxes` is how many each map has at
    most, M, None where the outputs `boxes` and `box_scores` are not among the file's; `concepts`,
    how many its layer is parted in, None where the output `concept_maps` is not.
    `probabilities` says what makes probabilities of the classes' scores: `softmax`, `sigmoid`,
    `scores` where they are that already, `none` where nothing does; None, of an older file, leaves
    it to the target.

    A file that compares embeddings takes `queries` behind the model's inputs, vectors of so many
    values, None where it takes none; its classes are the queries of each run, and `num_classes` 0.

    `class_ids` says how the file learns which classes to explain: by an input `class_ids`, which is
    `required` or `optional` (without it the best one is explained; a default that only ONNX has);
    or by itself, which takes the `top` `best` ones, or `all`.

    A file of many passes may take them in `steps`. Then the graph has two more inputs behind
    `class_ids`, the numbers of the steps that are due, int64 (r,), and the `state` that the ones
    before left, zeros at first, float32; and one more output, the next state. `state` names its
    axes, `batch`, `classes` (K), `height` and `width`, or gives their length.
    """

    method: str
    layer: str
    image: ImageSpec
    num_classes: int
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ("image", "class_ids")
    explained: str | None = None
    class_ids: str = "optional"  # as all files of schema 1 had it
    top: int = 1
    model: str = ""
    class_names: tuple[str, ...] | None = None
    map_size: str = "image"
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    steps: int | None = None
    state: tuple[int | str, ...] = ()
    boxes: int | None = None
    concepts: int | None = None
    probabilities: Probabilities | None = None
    queries: int | None = None
    proof: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def is_detector(self) -> bool:
        """Whether the file is a detector's, which takes one image and knows no classes of it."""
        return "classes" not in self.outputs

    @property
    def shares_map(self) -> bool:
        """Whether a detector's file has one map of the image, and not one of each detection."""
        return self.is_detector and "detection_maps" not in self.outputs

    @property
    def takes_ids(self) -> bool:
        """Whether the classes to explain are an input."""
        return "class_ids" in self.inputs

    @property
    def own_ids(self) -> tuple[int, ...]:
        """The class ids of a file that is not told any, as `class_ids` would name them.

        >>> Card("gradcam", "conv", ImageSpec(8, 8), 5, (), class_ids="best", top=2).own_ids
        (-1, -1)
        """
        return tuple(range(self.num_classes)) if self.class_ids == "all" else (-1,) * self.top

    @property
    def further_inputs(self) -> tuple[str, ...]:
        """The inputs that the model takes behind the image."""
        return tuple(name for name in self.inputs if name not in ("image", "class_ids"))

    @property
    def own_outputs(self) -> tuple[str, ...]:
        """The outputs that are the model's."""
        return tuple(takewhile(lambda name: name != "classes", self.outputs))

    @property
    def graph_inputs(self) -> tuple[str, ...]:
        """All inputs of the graph, those of a run in steps too."""
        return self.inputs if self.steps is None else (*self.inputs, "steps", "state")

    @property
    def graph_outputs(self) -> tuple[str, ...]:
        """All outputs of the graph, that of a run in steps too."""
        return self.outputs if self.steps is None else (*self.outputs, "next_state")

    def state_shape(self, image: Sequence[int], classes: int) -> tuple[int, ...]:
        """The shape of the state for images of a shape, as the graph takes them, and K classes.

        >>> axes = (9, "batch", "classes")
        >>> card = Card("ablationcam", "conv", ImageSpec(8, 8), 2, (), state=axes)
        >>> card.state_shape((4, 3, 8, 8), 1)
        (9, 4, 1)
        """
        known = {"batch": image[0], "classes": classes}
        size = image[1:-1] if self.image.dtype == "uint8" else image[2:]
        # Images of one axis of space or three have no state at image size.
        known |= dict(zip(("height", "width"), size, strict=False))
        return tuple(axis if isinstance(axis, int) else known[axis] for axis in self.state)

    def to_json(self) -> str:
        """The card as JSON text, keys sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """The card that `to_json` wrote.

        Raises:
            FileError: not JSON; a field is missing, unknown, of another type, or of a value that
            no card has; or a newer schema.
        """
        try:
            fields = json.loads(text)
            if fields["schema"] > SCHEMA:
                raise FileError(
                    f"the file was written with card schema {fields['schema']}, this camcore reads "
                    f"up to {SCHEMA}; install a newer camcore"
                )
            image = from_fields(ImageSpec, fields.pop("image"))
            card = from_fields(cls, fields | {"image": image})
            _check_values(card)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FileError(
                f"the file's camcore card cannot be read ({error}); export the model again"
            ) from error
        return card


def _check_values(card: Card) -> None:
    """Raises a `ValueError` where a field has a value that no card has."""
    _check_numbers(card)
    _check_words(card)
    if card.inputs[:1] != ("image",):
        raise ValueError(f"the first of the inputs {card.inputs} is not image")
    for ports in (card.graph_inputs, card.graph_outputs):
        if len(set(ports)) < len(ports):
            raise ValueError(f"a name stands twice among {', '.join(ports)}")
    if card.queries is not None and QUERIES not in card.inputs:
        raise ValueError(f"it takes queries, and none is among the inputs {card.inputs}")
    if card.class_names is not None and len(card.class_names) != card.num_classes:
        raise ValueError(f"{len(card.class_names)} class names for {card.num_classes} classes")


def _check_numbers(card: Card) -> None:
    image = card.image
    state = [axis for axis in card.state if isinstance(axis, int)]
    numbers: dict[str, Sequence[int | None]] = {
        "channels": [image.channels],
        "sizes": [image.height, image.width, image.depth],
        "resize": image.resize if isinstance(image.resize, tuple) else [image.resize],
        "crop": image.crop or [],
        # Of queries it is not known how many there will be.
        "num_classes": [card.num_classes] if card.queries is None else [],
        "queries": [card.queries],
        "top": [card.top],
        "steps": [card.steps],
        "boxes": [card.boxes],
        "concepts": [card.concepts],
        "state": state,
    }
    for name, values in numbers.items():
        for value in values:
            if value is not None and not 1 <= value <= _MOST:
                raise ValueError(f"{name} is {value}, expected a number from 1 to {_MOST}")
    if math.prod(state) > _LARGEST_STATE:
        raise ValueError(f"a state of {card.state} has more than {_LARGEST_STATE} values")


def _check_words(card: Card) -> None:
    image = card.image
    words: dict[str, tuple[set[Any], Sequence[Any]]] = {
        "dtype": ({image.dtype}, ("float32", "uint8")),
        "spatial_ndim": ({image.spatial_ndim}, (1, 2, 3)),
        "class_ids": ({card.class_ids}, CLASS_IDS),
        "map_size": ({card.map_size}, ("image", "feature")),
        "state": ({axis for axis in card.state if isinstance(axis, str)}, _AXES),
        "explained": ({card.explained} - {None}, card.outputs),
        "assumed": (set(image.assumed), [each.name for each in dataclasses.fields(image)]),
    }
    for name, (given, known) in words.items():
        if not given <= set(known):
            raise ValueError(f"{name} is {sorted(given)}, expected of {', '.join(map(str, known))}")


# More than any count on a card is, and few enough to be counted out in memory.
_MOST = 10_000_000
_LARGEST_STATE = 2**28

# Those of a state that go by a name.
_AXES = ("batch", "classes", "height", "width")


def default_probabilities(target: str, num_classes: int) -> Probabilities:
    """What makes probabilities of scores where nobody says: see `Card.probabilities`.

    >>> default_probabilities("logit", 1000)
    'softmax'
    """
    if target == "binary" or (target == "logit" and num_classes == 1):
        return "sigmoid"
    return "softmax" if target in ("logit", "probability", "rest", "finer") else "none"
