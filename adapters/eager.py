"""Eager: one image, one line of Python, and no file: for notebooks, and for whoever comes from
libraries that explain so.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from camcore.adapters.images import Placement, prepare, read_image
from camcore.adapters.results import caption_text, image_record, picture
from camcore.adapters.runner import Explanation, class_index
from camcore.card import Card, ImageSpec
from camcore.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from camcore.export import Explained

# Of `explain`, what is for files alone.
_OF_FILES = ("pixels", "stepwise", "dynamic_size", "model_name", "probabilities")

_LISTED = 5  # best classes in `predictions`


@dataclass(frozen=True, repr=False)
class ImageExplanation:
    """An image, RGB uint8 (H, W, 3), and what a model says of it.

    `explanation` holds the arrays as the model gave them, for the part of the image that it saw:
    `scores` (1, N), `classes` (1, K), `saliency_map` (1, K, h, w) in [0, 1]. The rest is told on
    the pixels of the image. In a notebook it shows itself.
    """

    image: NDArray[np.uint8]
    explanation: Explanation[NDArray[Any]]
    card: Card
    placement: Placement

    @property
    def saliency_maps(self) -> NDArray[np.float32]:
        """The maps (K, H, W) of the classes, NaN where the model saw nothing of the image."""
        placed = map(self.placement.map_to_original, self.explanation.saliency_map[0])
        return np.stack(list(placed))

    @property
    def saliency_map(self) -> NDArray[np.float32]:
        """The map (H, W) of the first class, NaN where the model saw nothing of the image."""
        first: NDArray[np.float32] = self.saliency_maps[0]
        return first

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """The best classes: `class`, `name`, `score`, `probability`."""
        found: list[dict[str, Any]] = self._record()["predictions"]
        return found

    @property
    def explained(self) -> list[dict[str, Any]]:
        """The explained classes, as `predictions`, and the `peak` of their maps in pixels."""
        found: list[dict[str, Any]] = self._record()["explained"]
        return found

    @property
    def concepts(self) -> list[dict[str, Any]]:
        """With `concepts=K`, the `peak` of each in pixels, and what it `adds` to which classes."""
        found: list[dict[str, Any]] = self._record().get("concepts", [])
        return found

    def overlay(self, *, colormap: str = "jet", opacity: float = 0.5) -> NDArray[np.uint8]:
        """The image under the colours of its maps, RGB uint8: a panel for each class,
        and for each concept.
        """
        return picture(
            self.image,
            self.explanation,
            self.placement,
            self.card,
            self.explained,
            self.concepts,
            colormap=colormap,
            opacity=opacity,
        )

    def save(self, path: str | Path) -> None:
        """Write the overlay to an image file, in the format that the suffix names."""
        from camcore.adapters.overlay import write_image

        write_image(path, self.overlay())

    def show(self) -> None:
        """Open the overlay in a window of the system."""
        Image.fromarray(self.overlay()).show()

    def _repr_png_(self) -> bytes:
        encoded = BytesIO()
        Image.fromarray(self.overlay()).save(encoded, "PNG")
        return encoded.getvalue()

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        told = ", ".join(map(caption_text, self.explained))
        return (
            f"<{type(self).__name__}: {self.card.method} of {self.card.model} at "
            f"{self.card.layer}, image {height} x {width}: {told}>"
        )

    def _record(self) -> dict[str, Any]:
        return image_record("", self.explanation, self.placement, self.card, _LISTED)


class ImageExplainer:
    """Explains images with a PyTorch model, eagerly and without an export.

    The model is traced for the first image, and again for one that is prepared to another size; for
    all others it just runs. It shares its weights, and is left as it is.

    Args:
        model: a classifier in eval mode, as `camcore.export.explain` takes it.
        method, layer: as of `camcore.export.explain`; the last layer on the image's grid is the
            default.
        image_spec: how images are prepared: an `ImageSpec`, or torchvision's
            `weights.transforms()`. None takes what the model says of itself (`pretrained_cfg` of
            timm, `weights`, `image_spec`); what it does not say is assumed, with a warning.
        class_names: None takes the model's own.
        options: further ones of `camcore.export.explain`.

    Raises:
        InputError: an argument does not fit.

    >>> explainer = ImageExplainer(model, method="layercam")  # doctest: +SKIP
    >>> explainer("cat.jpg", classes="tabby").show()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: "nn.Module",
        *,
        method: str = "gradcam",
        layer: Any = None,
        image_spec: Any = None,
        class_names: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        from camcore.adapters.sources.functions import described
        from camcore.export import is_detector

        for name in _OF_FILES:
            if name in options:
                raise InputError(f"{name} is for files; see camcore.export.explain")
        if "detections" in options or is_detector(model):
            raise InputError(
                "explain_image is for classifiers; a detector is explained by "
                "camcore.export.explain(detector, photo), or as a file: docs/DETECTORS.md"
            )
        built = described(model, type(model).__name__)
        self.spec = built.image if image_spec is None else _as_spec(image_spec)
        self._own_names = built.class_names
        self._model = model
        self._options = {
            "method": method,
            "layer": layer,
            "class_names": class_names,
            "model_name": built.name,
            "image_spec": self.spec,
            "dynamic_size": False,
            **options,
        }
        self._explained: Explained | None = None
        if self.spec.assumed and image_spec is None:
            from camcore.adapters.tables import assumptions

            warnings.warn(
                f"nothing says how images are to be prepared; assumed: {assumptions(self.spec)}. "
                "Say it with image_spec=, as camcore.export.ImageSpec or torchvision's "
                "weights.transforms()",
                stacklevel=3,
            )

    def __call__(
        self, image: Any, classes: str | int | Sequence[str | int] | None = None
    ) -> ImageExplanation:
        """What the model says of an image, and where it sees that.

        Args:
            image: a file's path, a Pillow image, or an array (H, W, 3): uint8, or floats in [0, 1].
            classes: what to explain, names or indices; None takes the class of the highest score.

        Raises:
            InputError: the model, the image or an argument does not fit.
            FileError: the image cannot be read.
            UnknownNameError: no such method, layer or class; the message offers the nearest.
            ExportError: the model cannot be traced.
        """
        import torch

        pixels = _as_pixels(image)
        array, placement = prepare(pixels, self.spec)
        given = torch.from_numpy(array).to(next(self._model.parameters(), torch.zeros(())))
        explained = self._for_size(given)
        card = explained.card
        wanted = [classes] if isinstance(classes, str | int) else list(classes or ())
        ids = [class_index(card, str(each)) for each in wanted] or [-1]
        with torch.no_grad():
            outputs = explained(given, class_ids=torch.tensor([ids], device=given.device))
        arrays = {
            name: output.float() if output.is_floating_point() else output
            for name, output in zip(card.outputs, outputs, strict=True)
        }
        explanation = Explanation({name: x.numpy(force=True) for name, x in arrays.items()})
        return ImageExplanation(pixels, explanation, card, placement)

    def _for_size(self, image: "Tensor") -> "Explained":
        """The explained model for images of this one's size."""
        from camcore.export import explain

        if self._explained is None or self._explained.card.image.space != {
            "height": image.shape[2],
            "width": image.shape[3],
        }:
            explained = explain(self._model, image, **self._options)
            card, names = explained.card, self._own_names
            # What a model says of its classes may be of another head than it has now.
            if card.class_names is None and len(names or ()) == card.num_classes:
                explained.card = replace(card, class_names=names)
            self._explained = explained
        return self._explained


def explain_image(
    model: "nn.Module",
    image: Any,
    *,
    classes: str | int | Sequence[str | int] | None = None,
    **options: Any,
) -> ImageExplanation:
    """What a PyTorch model says of an image and where it sees that: see `ImageExplainer`, which
    takes the options, and is for more than one image.

    >>> explain_image(model, "cat.jpg", method="gradcam", classes="tabby").show()  # doctest: +SKIP
    """
    return ImageExplainer(model, **options)(image, classes)


def _as_pixels(image: Any) -> NDArray[np.uint8]:
    """An image as RGB uint8 (H, W, 3)."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    expected = "expected a path, a Pillow image, or an array (H, W, 3), uint8 or floats in [0, 1]"
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"image is {type(image).__name__}; {expected}. Prepared tensors go into what "
            "camcore.export.explain returns"
        )
    given = f"image is {image.dtype} {image.shape}"
    if image.ndim != 3 or image.shape[2] != 3 or math.prod(image.shape) == 0:
        raise InputError(f"{given}; {expected}")
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f" or not (image.min() >= 0 and image.max() <= 1):
        raise InputError(f"{given}, from {image.min()} to {image.max()}; {expected}")
    return cast(NDArray[np.uint8], np.rint(image * 255).astype(np.uint8))


def _as_spec(given: Any) -> ImageSpec:
    """An `ImageSpec`, or what torchvision's `weights.transforms()` is as one."""
    if isinstance(given, ImageSpec):
        return given
    if hasattr(given, "resize_size") and hasattr(given, "mean"):
        from camcore.adapters.sources.stated import preset_fields

        return ImageSpec(None, None, **preset_fields(given))
    raise InputError(
        f"image_spec is {type(given).__name__}; expected a camcore.export.ImageSpec, or "
        "torchvision's weights.transforms()"
    )
