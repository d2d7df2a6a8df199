"""Models by name, from the command line: with random weights, written and proven."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from camcore.adapters.sources.build import build_model
from tests.adapters.cli.calls import camcore, done, failed
from tests.test_readme import rows, section

# With the size of the image, a quick one or the only one. Each is of another family.
TIMM = {
    64: """convnext_atto convnextv2_atto efficientnet_b0 mobilenetv2_035 mobilenetv3_small_050
        mobilenetv4_conv_small mnasnet_small mobileone_s0 ghostnet_050 ghostnetv2_100 lcnet_035
        tinynet_e regnetx_002 regnety_002 densenet121 dla34 dpn48b vgg11 hrnet_w18_small
        hardcorenas_a selecsls42b repvgg_a0 ese_vovnet19b_dw inception_next_atto repghostnet_050
        rexnet_100 fbnetc_100 spnasnet_100 semnasnet_075 edgenext_xx_small starnet_s1 fastvit_t8
        repvit_m0_9 poolformer_s12 mobilevit_xxs mobilevitv2_050 hgnetv2_b0 mambaout_femto
        efficientvit_b0 swiftformer_xs pvt_v2_b0""",
    224: """vit_tiny_patch16_224 deit_tiny_patch16_224 xcit_nano_12_p16_224 pit_ti_224
        coat_lite_tiny efficientformer_l1 efficientvit_m0 tiny_vit_5m_224 visformer_tiny""",
}
TRANSFORMERS = {
    64: """resnet mobilenet_v2 mobilenet_v1 regnet convnext convnextv2 poolformer pvt_v2 bit
        segformer""",
    224: "vit deit dinov2 swin focalnet",
}
# As the libraries draw their weights, these give every image the same map: a classifier of zeros
# (resmlp, gmlp), or batch norms that have seen nothing and let all values fade (levit).
BLANK_TIMM = {224: "levit_128s resmlp_12_224 gmlp_ti16_224"}
BLANK_TRANSFORMERS = {224: "levit"}


def named(prefix: str, families: dict[int, str]) -> list[tuple[str, int]]:
    return [
        (f"{prefix}:{name}", size) for size, names in families.items() for name in names.split()
    ]


def test_names_of_the_page_are_those_that_are_tested() -> None:
    table = rows(section("docs/METHODS.md", "Models of timm and transformers"))
    families = [TIMM, TRANSFORMERS, BLANK_TIMM, BLANK_TRANSFORMERS]
    assert [(int(size), re.findall("`(.+?)`", names)) for _, size, names in table] == [
        (size, sorted(names.split())) for family in families for size, names in family.items()
    ]


def skip_without_its_library(name: str) -> None:
    library = {"timm": "timm", "hf": "transformers"}[name.partition(":")[0]]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'camcore[{library}]'")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [*named("timm", TIMM), *named("hf", TRANSFORMERS)])
def test_a_model_by_its_name(name: str, size: int, tmp_path: Path) -> None:
    skip_without_its_library(name)
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    said = done(camcore("export", name, "--weights", "none", "--size", str(size), "--output", path))
    assert "wrote" in said
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [*named("timm", BLANK_TIMM), *named("hf", BLANK_TRANSFORMERS)]
)
def test_a_model_that_tells_images_apart_once_it_is_trained(
    name: str, size: int, tmp_path: Path
) -> None:
    """Refused with its initial weights; after a few steps of training, written and proven."""
    skip_without_its_library(name)
    torch.manual_seed(0)
    weights, path = tmp_path / "trained.pt", tmp_path / "model.onnx"
    asked = ["export", name, "--size", str(size), "--output", path]
    assert "the same for every image" in failed(camcore(*asked, "--weights", "none"), 1)
    assert not path.exists()
    torch.save(trained(build_model(name, "none").model, size).state_dict(), weights)
    assert "wrote" in done(camcore(*asked, "--weights", weights))
    assert path.exists()


def trained(model: nn.Module, size: int) -> nn.Module:
    """A few steps down, and batch norms that have seen what the weights make of images by then."""
    images = torch.randn(4, 3, size, size)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    for _ in range(3):
        output = model(images)
        loss = F.cross_entropy(getattr(output, "logits", output), torch.tensor([0, 1, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain average
    with torch.no_grad():
        model(images)
    return model
