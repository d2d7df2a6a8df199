import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from camcore.adapters.images import prepare
from camcore.adapters.sources.build import build_model
from camcore.adapters.sources.transformers import beside, processor_fields
from camcore.card import ImageSpec
from camcore.errors import CamcoreError, InputError
from tests.adapters.sources.pictures import picture

transformers = pytest.importorskip("transformers")

LABELS = {0: "ant", 1: "bee", 2: "cat"}
INDEX = "model.safetensors.index.json"


def resnet_config() -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=LABELS
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A fine-tuned model in a folder, its tensors in several files, and its processor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mine")
    model = transformers.ResNetForImageClassification(resnet_config()).eval()
    model.save_pretrained(folder, max_shard_size="5KB")
    transformers.ConvNextImageProcessor(
        size={"shortest_edge": 64}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.2, 0.3]
    ).save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return model, folder


def test_a_folder_of_ones_own(saved: tuple[nn.Module, Path]) -> None:
    model, folder = saved
    built = build_model(f"hf:{folder}")
    assert (built.name, built.class_names) == (folder.name, ("ant", "bee", "cat"))
    assert (built.image.mean, built.image.crop) == ((0.4, 0.5, 0.6), (64, 64))
    assert built.image.assumed == built.notes == ()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(built.model(images).logits, model(images).logits)


def test_files_of_tensors_by_their_index(saved: tuple[nn.Module, Path]) -> None:
    model, folder = saved
    built = build_model(f"hf:{folder}", str(folder / INDEX))
    torch.testing.assert_close(built.model.state_dict(), model.state_dict())
    assert built.class_names == ("ant", "bee", "cat")
    assert "mean" in built.image.assumed


def test_a_folder_without_all_weights(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """transformers itself would draw the others at random."""
    model, _ = saved
    transformers.AutoConfig.from_pretrained(saved[1]).save_pretrained(tmp_path)
    state = {name: value for name, value in model.state_dict().items() if "classifier" not in name}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights that fit ResNetFor.*: classifier\.1\.bias"):
        build_model(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be built"):
        build_model(f"hf:{tmp_path}")


def test_a_kind_of_model(tmp_path: Path) -> None:
    built = build_model("hf:mobilenet_v2", "none")
    assert type(built.model).__name__ == "MobileNetV2ForImageClassification"
    assert built.class_names is None
    assert (built.image.resize, built.image.crop) == (256, (224, 224))
    with pytest.raises(InputError, match=r"hf:vit is a kind of model, which has no weights"):
        build_model("hf:vit")
    trained = transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(num_labels=7)
    )
    save_file(trained.state_dict(), tmp_path / "seven.safetensors")
    built = build_model("hf:mobilenet_v2", str(tmp_path / "seven.safetensors"))
    torch.testing.assert_close(built.model.state_dict(), trained.state_dict())


def test_a_kind_that_also_has_a_teacher() -> None:
    assert type(build_model("hf:levit", "none").model).__name__ == "LevitForImageClassification"


def test_the_tower_that_embeds_images(tmp_path: Path) -> None:
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text = size | {"num_attention_heads": 2, "vocab_size": 20, "eos_token_id": 1, "bos_token_id": 0}
    vision = size | {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    built = build_model(f"hf:{tmp_path}")
    assert built.output == "image_embeds"
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        given, expected = built.model(images).image_embeds, model.get_image_features(images)
    torch.testing.assert_close(given, getattr(expected, "pooler_output", expected))


def test_models_of_other_kinds_are_refused(tmp_path: Path) -> None:
    config = transformers.DetrConfig(architectures=["DetrForObjectDetection"])
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is a DetrForObjectDetection; expected .* classifies"):
        build_model(f"hf:{tmp_path}", "none")


def test_code_in_a_folder_is_not_run(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    trap = tmp_path / "went-off"
    (tmp_path / "own.py").write_text(f"import os\nos.mkdir({str(trap)!r})\n")
    config = json.loads((saved[1] / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be built"):
        build_model(f"hf:{tmp_path}")
    assert not trap.exists()


def test_a_pickle_in_a_folder_does_not_go_off(
    saved: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "went-off"),)

    transformers.AutoConfig.from_pretrained(saved[1]).save_pretrained(tmp_path)
    torch.save({"weight": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be built"):
        build_model(f"hf:{tmp_path}")
    assert not (tmp_path / "went-off").exists()


def test_a_failed_download_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pretrained(name: str, **options: Any) -> Any:
        raise OSError("no network\nand much more of it")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_pretrained)
    with pytest.raises(CamcoreError, match=r"from the hub \(no network\); give a folder, or a kin"):
        build_model("hf:microsoft/resnet-50")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViT", {}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("ConvNext", {"size": {"shortest_edge": 224}}),
        ("CLIP", {}),
        ("DeiT", {}),
        ("Levit", {}),
        ("PoolFormer", {}),
        ("MobileViT", {}),
        ("MobileNetV2", {"do_rescale": True, "rescale_factor": 1 / 128}),
        ("ViT", {"do_normalize": False}),
        ("ViT", {"do_resize": False}),
    ],
)
def test_images_are_prepared_as_a_processor_does(kind: str, options: dict[str, Any]) -> None:
    """As near as two ways of resizing are, of which one rounds to whole pixels."""
    processor = getattr(transformers, f"{kind}ImageProcessor")(**options)
    spec = ImageSpec(None, None, **processor_fields(processor))
    given, _ = prepare(picture(), spec)
    expected = np.asarray(processor(picture(), return_tensors="np")["pixel_values"])
    assert given.shape == expected.shape
    assert np.abs(given - expected).mean() < 0.02 * expected.std()


def test_what_a_processor_does_otherwise_is_noted() -> None:
    processor = transformers.EfficientNetImageProcessor(rescale_offset=True)
    (note,) = beside(processor, ImageSpec(None, None, **processor_fields(processor)))
    assert "prepared otherwise than by EfficientNetImageProcessor" in note


def test_a_processor_that_resizes_in_another_way_states_nothing() -> None:
    other = SimpleNamespace(size={"max_pixels": 10}, do_resize=True)
    assert processor_fields(other) == {}


def test_index_of_files_that_lack_something(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    _, folder = saved
    index = json.loads((folder / INDEX).read_text())
    first = sorted(set(index["weight_map"].values()))[0]
    state = load_file(folder / first)
    for name in set(index["weight_map"].values()):
        save_file({"other": next(iter(state.values()))}, tmp_path / name)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CamcoreError, match="missing from its files"):
        build_model(f"hf:{folder}", str(tmp_path / INDEX))
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(CamcoreError, match="no index of weights"):
        build_model(f"hf:{folder}", str(tmp_path / INDEX))
