"""The model families of the support matrix: how each is built, at a size and width that is quick.

torchvision's and timm's are the models themselves, with few classes and small images where they
allow them; transformers' are of the same classes, from small configurations. No weight is
downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SEED = 1
NUM_CLASSES = 11


@dataclass(frozen=True)
class Family:
    """A model and what to export of it.

    `make` builds it, `size` is the example image's height and width, `earlier` names a layer before
    the default one, `explained` are further arguments of `explain`, `options` those for a method.
    """

    name: str
    make: Callable[[], nn.Module]
    earlier: str
    size: int = 64
    explained: dict[str, Any] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The model in eval mode, with weights that tell a right map from a wrong one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = self.make().eval()
            enliven(model)
            calibrate(model, self.images(32))
        return model

    def images(self, batch: int) -> Tensor:
        """Smooth random images (B, 3, H, W), with some noise."""
        generator = torch.Generator().manual_seed(SEED)
        coarse = torch.randn(batch, 3, 4, 4, generator=generator)
        smooth = F.interpolate(coarse, size=(self.size, self.size), mode="bilinear")
        return 2 * smooth + 0.5 * torch.randn(smooth.shape, generator=generator)


def enliven(model: nn.Module) -> None:
    """Draw what libraries initialise to next to nothing, which would leave maps empty or alike.

    Classifiers, tokens and positions begin at zero, and the layer scale of ConvNeXt, CaiT and XCiT
    at a millionth, so that an untrained network hardly looks at its image.
    """
    for parameter in model.parameters():
        size = float(parameter.detach().abs().max())
        if parameter.squeeze().ndim > 1 and size == 0:
            nn.init.normal_(parameter, std=0.1)
        elif 0 < size < 1e-3 and bool((parameter == parameter.flatten()[0]).all()):
            nn.init.constant_(parameter, 0.5)


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Give norms weights of their own, and batch norms the statistics of images.

    Untrained, a deep network may turn rounding errors into percents: each kink of a ReLU adds to
    them, and so does each channel whose variance was estimated from a handful of values. So most
    values are moved off the kink, and the images are many.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight is not None:
            # Else the mean of what it returns is the same everywhere.
            nn.init.uniform_(module.weight, 0.5, 1.5)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain average
        # Branches that begin at nothing stay small.
        low, high = (0.5, 1.5) if norm.weight.any() else (0.1, 0.3)
        nn.init.uniform_(norm.weight, low, high)
        nn.init.normal_(norm.bias, mean=0.5, std=0.2)
        norm.train()
    if norms:
        with torch.no_grad():
            model(images)
    for norm in norms:
        norm.eval()


def make_model(name: str, num_classes: int | None = None, **options: Any) -> nn.Module:
    """A model without pretrained weights, as its library makes it.

    `name` is torchvision's, or `timm/` and a name of timm's, or `transformers/` and what stands
    before `ForImageClassification`, whose configuration `options` are; `num_classes` None gives as
    many as the pretrained weights are for.
    """
    library, _, kind = name.rpartition("/")
    if library == "transformers":
        import transformers

        classifier = getattr(transformers, f"{kind}ForImageClassification")
        config = classifier.config_class(num_labels=num_classes or 1000, **options)
        return classifier(config)  # type: ignore[no-any-return]
    if num_classes is not None:
        options["num_classes"] = num_classes
    if library == "timm":
        import timm

        return timm.create_model(kind, pretrained=False, **options)
    from torchvision import models

    if name in models.list_models(models.segmentation):
        options["weights_backbone"] = None  # else it is downloaded
    return models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]


def _family(name: str, earlier: str, size: int = 64, **options: Any) -> Family:
    return Family(name, partial(make_model, name, NUM_CLASSES, **options), earlier, size)


def _segmentation(name: str, earlier: str) -> Family:
    return replace(_family(name, earlier), explained={"target": "segmentation", "output": "out"})


# Without the auxiliary heads, which take no part in a prediction.
_PLAIN_INCEPTION = {"aux_logits": False, "init_weights": True}
_SMALL_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 16,
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _family("alexnet", "features.7", size=128),
        _family("vgg16", "features.16"),
        _family("vgg19", "features.18"),
        # Its default layer has but one channel for each class.
        replace(_family("squeezenet1_1", "features.7"), options={"ablationcam": {"ratio": 1.0}}),
        _family("resnet18", "layer2"),
        _family("resnet50", "layer3"),
        _family("resnet101", "layer3"),
        _family("resnext50_32x4d", "layer3"),
        _family("wide_resnet50_2", "layer3"),
        _family("densenet121", "features.denseblock3"),
        _family("googlenet", "inception4a", **_PLAIN_INCEPTION),
        _family("inception_v3", "Mixed_6a", size=107, **_PLAIN_INCEPTION),
        _family("mobilenet_v2", "features.10"),
        _family("mobilenet_v3_large", "features.10"),
        _family("shufflenet_v2_x1_0", "stage3"),
        _family("mnasnet1_0", "layers.10"),
        _family("efficientnet_b0", "features.5", size=96),
        _family("efficientnet_v2_s", "features.5"),
        _family("regnet_y_400mf", "trunk_output.block3"),
        _family("convnext_tiny", "features.5"),
        _family("vit_b_16", "encoder.layers.encoder_layer_8", image_size=64),
        _family("swin_t", "features.5", size=128),
        _family("swin_v2_t", "features.5", size=128),
        _family("maxvit_t", "blocks.2", size=224),
        _segmentation("fcn_resnet50", "backbone.layer3"),
        _segmentation("deeplabv3_resnet50", "backbone.layer3"),
        _segmentation("lraspp_mobilenet_v3_large", "backbone.10"),
        _family("timm/resnet18", "layer3"),
        _family("timm/convnext_atto", "stages.2"),
        _family("timm/vit_little_patch16_reg1_gap_256", "blocks.10", img_size=64),
        _family("timm/vit_small_patch16_dinov3", "blocks.8", img_size=64),
        _family("timm/swin_tiny_patch4_window7_224", "layers.2", size=224),
        # Not before its last convolutions: PyTorch 2.15's batch norm, going back for a single image
        # from a gradient that is a view of tokens, mixes up the channels, and the proof with it.
        _family("timm/efficientformer_l1", "stages.3.blocks.3", size=224),
        _family("timm/cait_xxs24_224", "blocks.20", img_size=64),
        # Of images of 64 some layers have 2 x 2 points: none lies as far out as FEM looks for.
        _family("timm/coat_lite_tiny", "serial_blocks3.1", size=128, img_size=128),
        _family("timm/crossvit_tiny_240", "blocks.1.blocks.1", size=240),
        _family("timm/levit_128s", "stages.1", size=224),
        _family("timm/pit_ti_224", "transformers.1.blocks", size=224),
        _family("timm/pvt_v2_b0", "stages.2", size=128),
        _family("timm/mobilevit_xxs", "stages.3", size=128),
        _family("timm/xcit_nano_12_p16_224", "blocks.8", img_size=64),
        _family(
            "transformers/ResNet",
            "resnet.encoder.stages.1",
            embedding_size=16,
            hidden_sizes=[16, 24, 32],
            depths=[1, 2, 1],
            layer_type="basic",
        ),
        _family("transformers/ViT", "vit.layers.1", **_SMALL_VIT),
        _family(
            "transformers/Swin",
            "swin.encoder.layers.0",
            image_size=64,
            patch_size=4,
            embed_dim=24,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        _family("transformers/Dinov2", "dinov2.encoder.layer.1", **_SMALL_VIT),
        _family(
            "transformers/Dinov2WithRegisters",
            "dinov2_with_registers.encoder.layer.1",
            **_SMALL_VIT,
        ),
    )
}
