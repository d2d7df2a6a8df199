"""The source of a model, picked by the model's name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from camcore.adapters.files import as_url, missing
from camcore.adapters.sources import functions, scenes, timm, torchvision, transformers
from camcore.adapters.sources.built_model import BuiltModel
from camcore.adapters.sources.onnx import source as onnx
from camcore.adapters.sources.weights import check_finite
from camcore.errors import unknown_name


class Source(Protocol):
    """What the file of a source holds."""

    def names(self) -> Sequence[str]:
        """The models that have a name of their own here."""

    def takes(self, name: str) -> bool:
        """Whether a model of that name is this source's."""

    def build(self, name: str, weights: str) -> BuiltModel:
        """The model of that name with these weights."""


# The first that takes a name builds the model.
SOURCES: Sequence[Source] = (scenes, timm, transformers, onnx, functions, torchvision)


def build_model(name: str, weights: str = "DEFAULT") -> BuiltModel:
    """The model of that name with these weights, in eval mode.

    `name` is a torchvision builder, `timm:NAME`, `hf:` and a name or folder of transformers',
    `module:function` (a function that returns an `nn.Module`), an ONNX file, or `scenes`, the demo
    classifier. `weights` is DEFAULT, NONE, the name of one of the builder's weights
    (IMAGENET1K_V2), or a state dict in a file (.safetensors, .pt, .pth, .bin, .ckpt, or the
    .index.json of several); what these mean to a source stands in its file.

    Raises:
        UnknownNameError: no such builder, module, function or weights.
        FileError: a model given as a URL; a weights file that is missing, unreadable, or holds more
            than tensors.
        InputError: weights that do not fit the model, or hold NaN or infinity.

    >>> build_model("resnet18", "NONE").image.crop
    (224, 224)
    """
    source = next((source for source in SOURCES if source.takes(name)), None)
    if source in (None, functions) and as_url(name) is not None:
        raise missing(Path(name))
    if source is None:
        known = [known for source in SOURCES for known in source.names()]
        hint = "A model of your own is given as module:function."
        raise unknown_name("model", name, known, hint)
    built = source.build(name, weights)
    check_finite(built.model, built.name)
    built.model.eval()
    return built
