from tests.adapters.cli.calls import camcore, done
from tests.adapters.cli.fake_export import FakeExport


def test_layers(fake_export: FakeExport) -> None:
    text = done(camcore("layers", "squeezenet1_1"))
    assert "layers of squeezenet1_1" in text
    assert "512 x 7 x 7" in text
    assert "* layer4 is the default: the last one" in text
    assert "Left out, listed with --all: 1 layer: no image grid" in text
    assert "Linear" not in text
    text = done(camcore("layers", "squeezenet1_1", "--all"))
    assert "1 fc 1000 Linear" in text
    assert "1: no image grid" in text
    assert "--all" not in text
