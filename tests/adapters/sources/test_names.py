"""Models by name, from the command line: with random weights, written and proven."""

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.adapters.cli.calls import camcore, done

# With the size of the image, a quick one or the only one. Each is of another family.
TIMM = {
    64: """convnext_atto convnextv2_atto efficientnet_b0 mobilenetv2_035 mobilenetv3_small_050
        mobilenetv4_conv_small mnasnet_small mobileone_s0 ghostnet_050 ghostnetv2_100 lcnet_035
        tinynet_e regnetx_002 regnety_002 densenet121 dla34 dpn48b vgg11 hrnet_w18_small
        hardcorenas_a selecsls42b repvgg_a0 ese_vovnet19b_dw inception_next_atto repghostnet_050
        rexnet_100 fbnetc_100 spnasnet_100 semnasnet_075 edgenext_xx_small starnet_s1 fastvit_t8
        repvit_m0_9 poolformer_s12 mobilevit_xxs mobilevitv2_050 hgnetv2_b0 mambaout_femto
        efficientvit_b0 swiftformer_xs pvt_v2_b0""",
    224: """vit_tiny_patch16_224 deit_tiny_patch16_224 xcit_nano_12_p16_224 levit_128s pit_ti_224
        coat_lite_tiny efficientformer_l1 efficientvit_m0 tiny_vit_5m_224 visformer_tiny
        resmlp_12_224 gmlp_ti16_224""",
}
TRANSFORMERS = {
    64: """resnet mobilenet_v2 mobilenet_v1 regnet convnext convnextv2 poolformer pvt_v2 bit
        segformer""",
    224: "vit deit dinov2 swin levit focalnet",
}


def named(prefix: str, families: dict[int, str]) -> list[tuple[str, int]]:
    return [
        (f"{prefix}:{name}", size) for size, names in families.items() for name in names.split()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [*named("timm", TIMM), *named("hf", TRANSFORMERS)])
def test_a_model_by_its_name(name: str, size: int, tmp_path: Path) -> None:
    library = {"timm": "timm", "hf": "transformers"}[name.partition(":")[0]]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'camcore[{library}]'")
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    said = done(camcore("export", name, "--weights", "none", "--size", str(size), "--output", path))
    assert "wrote" in said
    assert path.exists()
