"""What is measured: models without pretrained weights, and one image."""

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.families import calibrate, enliven, make_model

SEED = 1
SIZE = 224


@dataclass(frozen=True)
class Subject:
    """The layers of a model to measure, and its limit at the last block.

    `peer_layer` is the layer to compare with pytorch-grad-cam, None for the default one.
    """

    earlier: tuple[str, ...]
    last_limit: float = 1.05
    peer_layer: str | None = None


SUBJECTS = {
    "resnet18": Subject(("layer3", "layer2")),
    "resnet50": Subject(("layer3", "layer2")),
    # Not at `features`: the model goes on with an in-place ReLU, which changes the activations that
    # pytorch-grad-cam has recorded there, so its map is another one.
    "densenet121": Subject(("features.denseblock3",), peer_layer="features.denseblock4"),
    "mobilenet_v2": Subject(("features.13",)),
    # The part behind the last block holds nine tenths of the weights.
    "vgg16": Subject(("features.20",), last_limit=1.15),
}

_OPTIONS = {
    # PyTorch's exporter, which writes the plain file, fails on the other kind of its attention.
    "transformers/Swin": {"attn_implementation": "eager"}
}
_SEEDS = {
    # Of the first one, the best class has next to no evidence for it at one of the layers.
    "resnet18": 2,
    "resnet50": 2,
    "timm/pit_ti_224": 2,
}


def build_model(name: str) -> nn.Module:
    """A seeded model of `make_model` in eval mode, with weights that maps can be made of.

    Untrained, a model's running statistics say mean 0 and variance 1, which is far from the truth:
    activations vanish or grow with depth, and maps degenerate.
    """
    torch.manual_seed(_SEEDS.get(name, SEED))
    model = make_model(name, **_OPTIONS.get(name, {})).eval()
    enliven(model)
    size = native_size(model)
    calibrate(model, torch.randn(8, 3, size, size))
    return model


def native_size(model: nn.Module) -> int:
    """The height and width of the images that a model is made for."""
    if isinstance(model, torchvision.models.Inception3):
        return 299
    if hasattr(model, "pretrained_cfg"):  # timm's
        return int(model.pretrained_cfg["input_size"][-1])  # type: ignore[index]
    return getattr(getattr(model, "config", None), "image_size", SIZE)  # transformers'


def make_image(size: int = SIZE) -> Tensor:
    """One image (1, 3, size, size), normalised: smooth blobs and some noise, always the same."""
    generator = torch.Generator().manual_seed(SEED)
    coarse = torch.randn(1, 3, 7, 7, generator=generator)
    noise = torch.randn(1, 3, size, size, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear") + 0.5 * noise


def tail_share(model: nn.Module, layer: str, image: Tensor) -> float:
    """The part of a model's operations that lies behind a layer, in [0, 1].

    Operations are the multiply-accumulates of convolutions and linear layers, counted by PyTorch's
    FlopCounterMode while the model runs; what runs after the layer has returned is the tail. Right
    for models that are chains of blocks, as all of `SUBJECTS` are.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 9, 1))
    >>> tail_share(model, "0", torch.zeros(1, 3, 4, 4))  # 8 * 9 of 8 * 9 + 3 * 8 at each pixel
    0.75
    """
    counter = FlopCounterMode(display=False)
    until_layer: list[int] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, arguments, output: until_layer.append(counter.get_total_flops())
    )
    try:
        with torch.no_grad(), counter:
            model(image)
    finally:
        handle.remove()
    return 1 - until_layer[-1] / counter.get_total_flops()


def earlier_limit(share: float) -> float:
    """How much an earlier layer may cost: the way back through the tail costs what the tail does.

    >>> earlier_limit(0.5)
    1.725
    """
    return round(1.15 * (1 + share), 3)
