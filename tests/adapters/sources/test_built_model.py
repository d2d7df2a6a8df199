from camcore.adapters.sources.built_model import with_size
from camcore.card import ImageSpec


def test_with_size() -> None:
    spec = ImageSpec(None, None, resize=256, crop=(224, 224))
    assert with_size(spec, (224, 224)) == spec
    assert with_size(spec, (448, 448)) == ImageSpec(None, None, resize=512, crop=(448, 448))
    assert with_size(spec, (96, 128)) == ImageSpec(None, None)
    assert with_size(ImageSpec(None, None), (64, 64)) == ImageSpec(None, None)
