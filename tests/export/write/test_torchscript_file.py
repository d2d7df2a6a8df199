"""TorchScript archives: of any device, and of each weight once."""

import zipfile
from pathlib import Path

import pytest

from camcore.export import explain, save
from tests.export.models import build, images
from tests.export.passing import CASES
from tests.export.wide import check_size, save_wide


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "rise"])
def test_no_device_is_written_down(method: str, tmp_path: Path) -> None:
    """A constant device would tie the file to the machine that exported it."""
    case = CASES["skip"]
    model = build(case.make)
    if method == "gradcam":
        explained = explain(model, images(0, 1, 24, 24), layer=case.place.layer)
    else:
        explained = case.explain(model, method)
    save(explained, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        code = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")]
    assert any("def forward" in text for text in code)
    for text in code:
        assert "torch.device(" not in text
        assert '"cpu"' not in text


def test_each_weight_is_stored_once(tmp_path: Path) -> None:
    check_size(save_wide(tmp_path, ".pt"))
