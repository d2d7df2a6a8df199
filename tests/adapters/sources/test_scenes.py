import pytest
import torch

from camcore.adapters.sources.build import build_model
from camcore.errors import InputError
from camcore.export import is_detector


def test_scenes() -> None:
    built = build_model("scenes")
    assert built.class_names is not None
    with torch.no_grad():
        assert built.model(torch.zeros(1, 3, 128, 128)).shape == (1, len(built.class_names))
    assert built.image.mean == (0.5, 0.5, 0.5)
    assert built.image.resize == 128
    with pytest.raises(InputError, match="its own weights"):
        build_model("scenes", "NONE")


@pytest.mark.parametrize("name", ["scenes-retinanet", "scenes-faster_rcnn", "scenes-ssdlite"])
def test_detectors_of_scenes(name: str) -> None:
    built = build_model(name)
    assert is_detector(built.model)
    assert built.class_names is not None
    assert built.class_names[0] == "background"
    assert built.image.mean == (0.0, 0.0, 0.0)
