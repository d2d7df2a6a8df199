"""The demo's classifier of painted shapes, by the name `scenes`."""

from collections.abc import Sequence

from camcore.adapters import demo
from camcore.adapters.demo import network
from camcore.adapters.sources.built_model import BuiltModel
from camcore.card import ImageSpec
from camcore.errors import InputError

SCENES = "scenes"


def names() -> Sequence[str]:
    return [SCENES]


def takes(name: str) -> bool:
    return name == SCENES


def build(name: str, weights: str) -> BuiltModel:
    """The classifier with its own weights, which are DEFAULT."""
    if weights.upper() != "DEFAULT":
        raise InputError(f"{name} comes with its own weights; leave --weights {weights} out")
    spec = ImageSpec(
        None,
        None,
        mean=network.IMAGE_MEAN,
        std=network.IMAGE_STD,
        # In pictures much larger than those it learnt from, it scores every class far too low.
        resize=network.IMAGE_SIDE,
    )
    return BuiltModel(demo.load_scene_net(), name, tuple(demo.CLASS_NAMES), spec)
