import pytest

from camcore.adapters.sources import functions, scenes, torchvision
from camcore.adapters.sources.build import SOURCES, Source, build_model
from camcore.errors import UnknownNameError


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("scenes", scenes),
        ("my_models:build", functions),
        ("resnet18", torchvision),
        ("fcn_resnet50", torchvision),
    ],
)
def test_each_name_is_one_sources(name: str, source: Source) -> None:
    assert [each for each in SOURCES if each.takes(name)] == [source]


def test_names_of_a_source_are_taken_by_it() -> None:
    for source in SOURCES:
        assert all(source.takes(name) for name in source.names())


def test_unknown_builder() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet19'; nearest: .*resnet18"):
        build_model("resnet19")
    with pytest.raises(UnknownNameError, match="module:function"):
        build_model("r3d_18")  # video
