import pytest

from camcore.adapters.sources.built_model import traced_size, with_size, with_stated
from camcore.card import ImageSpec, assume_image


def test_with_size() -> None:
    spec = ImageSpec(None, None, resize=256, crop=(224, 224))
    assert with_size(spec, (224, 224)) == spec
    assert with_size(spec, (448, 448)) == ImageSpec(None, None, resize=512, crop=(448, 448))
    assert with_size(spec, (96, 128)) == ImageSpec(None, None, resize=(96, 128))
    assert with_size(ImageSpec(None, None), (64, 64)) == ImageSpec(None, None)
    shorter = ImageSpec(None, None, resize=128)
    assert with_size(shorter, (64, 64)) == ImageSpec(None, None, resize=64)
    stretched = ImageSpec(None, None, resize=(64, 64))
    assert with_size(stretched, (32, 32)) == ImageSpec(None, None, resize=(32, 32))


def test_traced_size() -> None:
    assert traced_size(ImageSpec(None, None, resize=256, crop=(192, 224))) == (192, 224)
    assert traced_size(ImageSpec(None, None, resize=(96, 128))) == (96, 128)
    assert traced_size(ImageSpec(None, None, resize=520)) == (224, 224)


@pytest.mark.parametrize(
    ("fields", "resize", "crop"),
    [
        ({"resize": 256}, 256, (224, 224)),
        ({"resize": 128}, 128, None),
        ({"resize": (224, 224)}, (224, 224), None),
        ({"resize": None}, None, None),
        ({"crop": (192, 192)}, 192, (192, 192)),
        ({"crop": (192, 256)}, (192, 256), (192, 256)),
        ({"crop": None}, 224, None),
        ({"resize": 256, "crop": (64, 64)}, 256, (64, 64)),
    ],
)
def test_what_is_stated_stands_and_the_assumed_gives_way(
    fields: dict[str, object], resize: object, crop: object
) -> None:
    spec = with_stated(assume_image((224, 224)), fields)
    assert (spec.resize, spec.crop) == (resize, crop)
    assert not set(spec.assumed) & set(fields)
    assert {"mean", "std", "colour"} <= set(spec.assumed)


def test_grey_images_have_one_of_everything() -> None:
    spec = with_stated(assume_image((28, 28)), {"channels": 1, "mean": (0.1307,)})
    assert (spec.channels, spec.mean, spec.std) == (1, (0.1307,), (1.0,))
    assert spec.assumed == ("std", "resize", "crop")
