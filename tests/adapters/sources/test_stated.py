from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import EfficientNet_B1_Weights

from camcore.adapters.images import prepare
from camcore.adapters.sources.functions import described
from camcore.adapters.sources.stated import as_names, channels_of, stated
from camcore.card import ImageSpec

# As timm 1.0 leaves it at a model.
TIMM = {
    "architecture": "resnet50",
    "input_size": (3, 240, 240),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.5, 0.75),
    "crop_pct": 0.95,
    "crop_mode": "center",
    "num_classes": 1000,
}


def model(**attributes: Any) -> nn.Module:
    net = nn.Conv2d(3, 1, 1)
    for name, value in attributes.items():
        object.__setattr__(net, name, value)
    return net


def test_a_model_that_says_nothing() -> None:
    built = described(model(), "net")
    assert built.class_names is None
    expected = ImageSpec(
        None,
        None,
        resize=224,
        crop=(224, 224),
        assumed=("mean", "std", "resize", "crop", "colour"),
    )
    assert built.image == expected


def test_grey_models_are_known_by_their_first_convolution() -> None:
    assert channels_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1))) == 1
    assert channels_of(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 3, 1))) == 3
    assert channels_of(nn.Linear(2, 2)) == 3
    assert described(nn.Conv2d(1, 4, 3), "grey").image.mean == (0.0,)


def test_torchvisions_weights_left_at_a_model() -> None:
    """The input is what torchvision's own transform makes of the same picture."""
    weights = EfficientNet_B1_Weights.IMAGENET1K_V2
    built = described(model(weights=weights), "net")
    assert built.class_names == tuple(weights.meta["categories"])
    assert built.image.assumed == ()
    pixels = torch.randint(0, 256, (300, 400, 3), generator=torch.Generator().manual_seed(0))
    picture = pixels.numpy().astype("uint8")
    expected = weights.transforms(antialias=True)(Image.fromarray(picture))
    array, _ = prepare(picture, built.image)
    torch.testing.assert_close(torch.from_numpy(array[0]), expected, atol=1e-5, rtol=0)


@dataclass
class _Cfg:
    """What timm 0.9 to 1.0 keep as an object."""

    input_size: tuple[int, int, int] = (3, 240, 240)
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.5, 0.75)
    crop_pct: float = 0.95
    interpolation: str = "bicubic"


@pytest.mark.parametrize("cfg", [TIMM, _Cfg()], ids=["mapping", "object"])
def test_timm(cfg: Any) -> None:
    image = described(model(pretrained_cfg=cfg), "net").image
    # timm: floor(240 / 0.95) and a crop of 240
    assert (image.resize, image.crop) == (252, (240, 240))
    assert (image.mean, image.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.75))
    assert (image.interpolation, image.assumed) == ("bicubic", ())


def test_timm_that_squashes() -> None:
    cfg = TIMM | {"crop_mode": "squash", "crop_pct": 1.0, "input_size": (3, 240, 320)}
    image = described(model(pretrained_cfg=cfg), "net").image
    assert (image.resize, image.crop) == ((240, 320), (240, 320))


def test_transformers() -> None:
    config = SimpleNamespace(image_size=384, num_channels=3, id2label={1: "dog", 0: "cat"})
    built = described(model(config=config), "net")
    assert built.class_names == ("cat", "dog")
    assert built.image.crop == (384, 384)
    assert {"mean", "std", "crop"} <= set(built.image.assumed)
    unnamed = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"}, image_size=[64, 96])
    built = described(model(config=unnamed), "net")
    assert built.class_names is None
    assert built.image.resize == (64, 96)


def test_ultralytics() -> None:
    assert stated(model(names={0: "person", 1: "bicycle"})).class_names == ("person", "bicycle")


def test_of_ones_own() -> None:
    spec = ImageSpec(None, None, mean=(0.1,) * 3, std=(0.2,) * 3, resize=(64, 64), colour="BGR")
    built = described(model(image_spec=spec, class_names=["a", "b"], pretrained_cfg=TIMM), "net")
    assert built.image == spec
    assert built.class_names == ("a", "b")


@pytest.mark.parametrize(
    "names", [None, [], "cat", 5, {0: "a", 2: "b"}, {"a": "b"}, [1, 2], ["a", None]]
)
def test_what_are_no_names(names: Any) -> None:
    assert as_names(names) is None


def test_attributes_that_are_something_else_say_nothing() -> None:
    others = model(
        weights=torch.zeros(3), pretrained_cfg="a", config={"a": 1}, names=lambda: 1, image_spec=3
    )
    assert stated(others) == stated(model())
