import sys

import pytest

from tests.adapters.cli.calls import camcore, failed


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("camcore.adapters.sources.build", "camcore.adapters.sources.torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(name, raising=False)
    message = failed(camcore("layers", "resnet18"))
    assert "needs torchvision, which is not installed: pip install 'camcore[export]'" in message
