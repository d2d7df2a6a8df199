"""Ablation-CAM of detections by pytorch-grad-cam in eager PyTorch, as its tutorial has it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

# What a channel is set to that is left out: far below all features, so that what follows is sure to
# notice.
VALUE = -1000.0


@contextmanager
def ablation_cam(
    detector: nn.Module,
    image: Tensor,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    *,
    ratio: float = 1.0,
    batch_size: int = 32,
) -> Iterator[Callable[[], NDArray[Any]]]:
    """What makes the map (H, W) of all detections together, at the levels of `backbone`.

    Its layer counts five levels of 256 channels; here it counts those that the detector has.

    Args:
        detector: one of torchvision's with a `backbone` of several levels.
        image: (1, 3, H, W).
        boxes, labels: (D, 4) and (D,), the detections.
        ratio: of the channels that are left out; below 1 both the first and the last of them.
        batch_size: how many channels are left out at a time.
    """
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayerFasterRCNN
    from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
    from pytorch_grad_cam.utils.reshape_transforms import fasterrcnn_reshape_transform

    class Layer(AblationLayerFasterRCNN):  # type: ignore[misc]
        def __call__(self, x: Any) -> Any:
            levels = list(self.activations.values())
            for row, index in enumerate(self.indices[: len(levels[0])]):
                level, channel = divmod(int(index), levels[0].shape[1])
                levels[level][row, channel] = VALUE
            return self.activations

    def joined(levels: OrderedDict[str, Tensor]) -> Tensor:
        *names, _ = levels
        # It takes the size of the level that is called so.
        last = OrderedDict(zip([*names, "pool"], levels.values(), strict=True))
        found: Tensor = fasterrcnn_reshape_transform(last)
        return found

    target = FasterRCNNBoxScoreTarget(labels=labels, bounding_boxes=boxes)
    with AblationCAM(
        detector,
        [detector.get_submodule("backbone")],
        reshape_transform=joined,
        ablation_layer=Layer(),
        batch_size=batch_size,
        ratio_channels_to_ablate=ratio,
    ) as cam:
        yield lambda: cam(image, targets=[target])[0]
