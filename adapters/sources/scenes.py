"""The demo's models of painted shapes: `scenes`, the classifier, and `scenes-...`, detectors."""

from collections.abc import Sequence

from camcore.adapters import demo
from camcore.adapters.demo import network
from camcore.adapters.sources.built_model import PLAIN, BuiltModel
from camcore.card import ImageSpec
from camcore.errors import InputError

SCENES = "scenes"


def names() -> Sequence[str]:
    return [SCENES, *(f"{SCENES}-{name}" for name in demo.DETECTOR_NAMES)]


def takes(name: str) -> bool:
    return name in names()


def build(name: str, weights: str) -> BuiltModel:
    """The model with its own weights, which are DEFAULT."""
    if weights.upper() != "DEFAULT":
        raise InputError(f"{name} comes with its own weights; leave --weights {weights} out")
    if name != SCENES:
        return _detector(name)
    spec = ImageSpec(
        None,
        None,
        mean=network.IMAGE_MEAN,
        std=network.IMAGE_STD,
        # In pictures much larger than those it learnt from, it scores every class far too low.
        resize=network.IMAGE_SIDE,
    )
    return BuiltModel(demo.load_scene_net(), name, tuple(demo.CLASS_NAMES), spec)


def _detector(name: str) -> BuiltModel:
    from camcore.adapters.demo.detectors import LABEL_NAMES, load_scene_detector

    detector = load_scene_detector(name.removeprefix(f"{SCENES}-"))
    return BuiltModel(detector, name, LABEL_NAMES, PLAIN)
