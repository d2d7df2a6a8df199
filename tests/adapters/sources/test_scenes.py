from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from camcore.adapters.sources.build import build_model
from camcore.adapters.training.head import with_classes
from camcore.errors import InputError
from camcore.export import is_detector


def test_scenes() -> None:
    built = build_model("scenes")
    assert built.class_names is not None
    with torch.no_grad():
        assert built.model(torch.zeros(1, 3, 128, 128)).shape == (1, len(built.class_names))
    assert built.image.mean == (0.5, 0.5, 0.5)
    assert built.image.resize == 128
    with pytest.raises(InputError, match="expected DEFAULT, NONE or one"):
        build_model("scenes", "IMAGENET1K_V1")


@pytest.mark.parametrize(("classes", "named"), [(8, True), (3, False)])
def test_scenes_with_weights_of_a_training_of_ones_own(
    classes: int, named: bool, tmp_path: Path
) -> None:
    untrained = build_model("scenes", "NONE")
    state = with_classes(untrained.model, classes).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    built = build_model("scenes", str(tmp_path / "a.safetensors"))
    assert (built.class_names is not None) == named
    assert built.image == untrained.image
    for name, value in built.model.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("name", ["scenes-retinanet", "scenes-faster_rcnn", "scenes-ssdlite"])
def test_detectors_of_scenes(name: str) -> None:
    with pytest.raises(InputError, match="its own weights"):
        build_model(name, "NONE")
    built = build_model(name)
    assert is_detector(built.model)
    assert built.class_names is not None
    assert built.class_names[0] == "background"
    assert built.image.mean == (0.0, 0.0, 0.0)
