"""The card: what a file says of itself, so that running it needs the file and an image and nothing
else.

An exported file carries the card as JSON under the metadata key `camcore`, and ends with a *seal*,
the SHA-256 of everything before it. A file without a card was not written by camcore; a file whose
seal does not fit was truncated or changed afterwards. The seal guards against accidents, not
against somebody who forges a new one.

Only the standard library is imported: the production side reads cards without torch and without
onnx.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import SEEK_END, BufferedIOBase, BytesIO
from itertools import takewhile
from typing import Any, Literal

from camcore.errors import FileError

KEY = "camcore"
SEAL_KEY = "camcore.sha256"
SCHEMA = 2

# How a file learns which classes it is to explain.
CLASS_IDS = ("required", "optional", "best", "all")

Probabilities = Literal["softmax", "sigmoid", "scores", "none"]

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
    takes (B, C, L), and `width` is the length. `assumed` names those of the fields above that
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
    assumed: tuple[str, ...] = ()

    @property
    def space(self) -> dict[str, int | None]:
        """The spatial axes in order, with their sizes.

        >>> ImageSpec(None, 500, spatial_ndim=1).space
        {'length': 500}
        """
        names = ("length",) if self.spatial_ndim == 1 else ("depth", "height", "width")
        sizes = (self.depth, self.height, self.width)
        first = -self.spatial_ndim
        return dict(zip(names[first:], sizes[first:], strict=True))

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
    most, M, None where the outputs `boxes` and `box_scores` are not among the file's.
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
    probabilities: Probabilities | None = None
    queries: int | None = None
    proof: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def is_detector(self) -> bool:
        """Whether what is explained are the detections of one image."""
        return "detection_maps" in self.outputs

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
            FileError: not JSON, a field is missing or unknown, or a newer schema.
        """
        try:
            fields = json.loads(text)
            if fields["schema"] > SCHEMA:
                raise FileError(
                    f"the file was written with card schema {fields['schema']}, this camcore reads "
                    f"up to {SCHEMA}; install a newer camcore"
                )
            image = {name: _as_tuple(value) for name, value in fields.pop("image").items()}
            return cls(
                image=ImageSpec(**image),
                **{name: _as_tuple(value) for name, value in fields.items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(
                f"the file's camcore card cannot be read ({error}); export the model again"
            ) from error


def default_probabilities(target: str, num_classes: int) -> Probabilities:
    """What makes probabilities of scores where nobody says: see `Card.probabilities`.

    >>> default_probabilities("logit", 1000)
    'softmax'
    """
    if target == "binary" or (target == "logit" and num_classes == 1):
        return "sigmoid"
    return "softmax" if target in ("logit", "probability", "rest", "finer") else "none"


def _as_tuple(value: Any) -> Any:
    """JSON has no tuples; the card has no lists."""
    return tuple(value) if isinstance(value, list) else value


def onnx_ending(content: bytes, card: Card) -> bytes:
    """What to append to a serialised `ModelProto` to give it the card, sealed.

    Only the ending, for the model before it may weigh half a gigabyte and stands on disk already.
    """
    entry = _field(1, KEY.encode()) + _field(2, card.to_json().encode())
    metadata = _field(_METADATA_PROPS, entry)
    return metadata + _onnx_seal(_sha256(content, metadata))


def attach_zip(content: bytes, card: Card) -> bytes:
    """A TorchScript or .pt2 archive with the card as its extra file `camcore`, sealed."""
    archive = BytesIO(content)
    with zipfile.ZipFile(archive, "a") as entries:
        top = entries.namelist()[0].split("/")[0]
        entries.writestr(f"{top}/extra/{KEY}", card.to_json())
    return seal_zip(archive.getvalue())


def seal_onnx(content: bytes) -> bytes:
    """Serialised `ModelProto` bytes with the seal behind them.

    Protobuf allows fields of a message to be appended in any order, so the seal is one more
    `metadata_props` entry whose bytes come last: reading it back needs no protobuf library.
    """
    return content + _onnx_seal(_sha256(content))


def onnx_is_sealed(file: BufferedIOBase) -> bool:
    """Whether an ONNX file ends with the seal that fits it."""
    return _is_sealed(file, _onnx_seal)


def _onnx_seal(digest: str) -> bytes:
    return _field(_METADATA_PROPS, _field(1, SEAL_KEY.encode()) + _field(2, digest.encode()))


def _is_sealed(file: BufferedIOBase, seal: Callable[[str], bytes]) -> bool:
    """Whether a file ends with the seal of the digest of all before it."""
    left = file.seek(0, SEEK_END) - len(seal(_sha256()))
    if left <= 0:
        return False
    file.seek(0)
    digest = hashlib.sha256()
    # In pieces that stay in the processor's cache: reading the file whole takes half as long again.
    piece = memoryview(bytearray(_PIECE))
    while left > 0:
        read = file.readinto(piece[: min(left, _PIECE)])
        if not read:  # the file was cut while it was read
            return False
        digest.update(piece[:read])
        left -= read
    return file.read() == seal(digest.hexdigest())


_PIECE = 1 << 18


def _sha256(*content: bytes) -> str:
    """The digest of all parts in a row, without a copy of them."""
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    return digest.hexdigest()


_METADATA_PROPS = 14  # the field of ModelProto; an entry holds a key, field 1, and a value, field 2


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field, https://protobuf.dev/programming-guides/encoding/."""
    length = len(payload)
    size = bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + payload


def seal_zip(content: bytes) -> bytes:
    """Bytes of a TorchScript or .pt2 archive with the seal behind them.

    A zip archive ends with a comment and, just before it, the comment's length in two bytes. torch
    writes no comment and ignores one, so the seal can cover every byte before itself, headers and
    directory included.
    """
    size = len(_zip_seal(_sha256()))
    unsealed = content[:-2] + size.to_bytes(2, "little")
    return unsealed + _zip_seal(_sha256(unsealed))


def zip_is_sealed(file: BufferedIOBase) -> bool:
    """Whether an archive ends with the seal that fits it."""
    return _is_sealed(file, _zip_seal)


def _zip_seal(digest: str) -> bytes:
    return f"{SEAL_KEY}={digest}".encode()


def read_extra(entries: zipfile.ZipFile, name: str) -> str | None:
    """The text of the archive's extra file of that name, None where it has none."""
    found = [entry for entry in entries.namelist() if entry.endswith(f"/extra/{name}")]
    return entries.read(found[0]).decode() if found else None
