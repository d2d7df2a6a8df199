"""The demo: small classifiers and detectors of painted scenes whose every object is known.

Importing this package imports no torch; `load_scene_net` does, and so does `detectors`.
"""

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from camcore.adapters.demo.scenes import CLASS_NAMES

if TYPE_CHECKING:
    from camcore.adapters.demo.network import SceneNet

__all__ = ["CLASS_NAMES", "DETECTOR_NAMES", "load_scene_net"]

DETECTOR_NAMES = ("retinanet", "faster_rcnn", "ssdlite")


def load_scene_net() -> "SceneNet":
    """The shipped, trained classifier, in eval mode, on the CPU: (B, 3, H, W) -> logits (B, 8).

    Its input is normalised with `network.IMAGE_MEAN` and `network.IMAGE_STD`; how good it is
    stands in `scene_net.json`.

    >>> import torch
    >>> load_scene_net()(torch.zeros(1, 3, 128, 128)).shape
    torch.Size([1, 8])
    """
    from safetensors.torch import load_file

    from camcore.adapters.demo.network import scene_net

    net = scene_net()
    with as_file(files("camcore.adapters.demo") / "scene_net.safetensors") as path:
        net.load_state_dict(load_file(path))
    return net.eval()
