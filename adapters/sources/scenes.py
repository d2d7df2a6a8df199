"""The demo's models of painted shapes: `scenes`, the classifier, and `scenes-...`, detectors."""

from collections.abc import Sequence

from torch import nn

from camcore.adapters import demo
from camcore.adapters.demo import network
from camcore.adapters.sources.built_model import PLAIN, BuiltModel
from camcore.adapters.sources.weights import is_weights_file, load_state_dict, read_state_dict
from camcore.adapters.training.head import with_classes
from camcore.card import ImageSpec
from camcore.errors import InputError

SCENES = "scenes"


def names() -> Sequence[str]:
    return [SCENES, *(f"{SCENES}-{name}" for name in demo.DETECTOR_NAMES)]


def takes(name: str) -> bool:
    return name in names()


def build(name: str, weights: str) -> BuiltModel:
    """The detector with its own weights, which are DEFAULT; the classifier with those, with none,
    or with a file's.

    A file may have another number of classes, and then their names are not known.
    """
    if name != SCENES:
        return _detector(name, weights)
    model: nn.Module = network.scene_net() if weights.upper() == "NONE" else demo.load_scene_net()
    names = tuple(demo.CLASS_NAMES)
    classes = len(names)
    if is_weights_file(weights):
        state = read_state_dict(weights)
        if "classifier.bias" in state:
            classes = len(state["classifier.bias"])
        load_state_dict(with_classes(model, classes), state, weights)
    elif weights.upper() not in ("DEFAULT", "NONE"):
        raise InputError(f"{name}: weights {weights!r} are no file; expected DEFAULT, NONE or one")
    spec = ImageSpec(
        None,
        None,
        mean=network.IMAGE_MEAN,
        std=network.IMAGE_STD,
        # In pictures much larger than those it learnt from, it scores every class far too low.
        resize=network.IMAGE_SIDE,
    )
    return BuiltModel(model, name, names if classes == len(names) else None, spec)


def _detector(name: str, weights: str) -> BuiltModel:
    from camcore.adapters.demo.detectors import LABEL_NAMES, load_scene_detector

    if weights.upper() != "DEFAULT":
        raise InputError(f"{name} comes with its own weights; leave --weights {weights} out")
    detector = load_scene_detector(name.removeprefix(f"{SCENES}-"))
    return BuiltModel(detector, name, LABEL_NAMES, PLAIN)
