"""TorchScript archives: of any device, and of each weight once."""

import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from torch import nn

from camcore.export import Explained
from camcore.export.write.capture import capture
from camcore.export.write.torchscript_file import to_torchscript
from tests.export.passing import CASES
from tests.export.wide import check_size, save_wide


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "rise"])
def test_no_device_is_written_down(
    method: str, explained: Explained, models: dict[str, nn.Module]
) -> None:
    """A constant device would tie the file to the machine that exported it."""
    if method != "gradcam":
        explained = CASES["skip"].explain(models["skip"], method)
    content = to_torchscript(capture(explained), explained.card)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        code = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")]
    assert any("def forward" in text for text in code)
    for text in code:
        assert "torch.device(" not in text
        assert '"cpu"' not in text


def test_each_weight_is_stored_once(tmp_path: Path) -> None:
    check_size(save_wide(tmp_path, ".pt"))
