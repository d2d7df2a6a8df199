import doctest
import sys
from pathlib import Path
from typing import Any

import pytest

from camcore.adapters import options
from camcore.adapters.options import add_channels, parse_options, parse_output, parse_target
from camcore.errors import InputError, UnknownNameError
from camcore.export.trace.targets import TARGETS, Target
from camcore.methods import METHODS


@pytest.mark.parametrize(
    ("method", "pairs", "expected"),
    [
        ("gradcam", [], {}),
        ("gradcam++", ["eps=0"], {"eps": 0.0}),
        ("gradcam++", [" eps = 1e-3 "], {"eps": 1e-3}),
        ("eigencam", ["gram=space"], {"gram": "space"}),
        ("eigencam", ["gram=None"], {"gram": None}),
        ("kpcacam", ["gamma=0.5", "coef=2"], {"gamma": 0.5, "coef": 2.0}),
        ("kpcacam", ["gamma=none"], {"gamma": None}),
        ("randomcam", ["seed=3"], {"seed": 3}),
        ("scorecam", ["channels=16", "chunk=8"], {"channels": 16, "chunk": 8}),
        (
            "scorecam",
            ["channels=none", "align_corners=true"],
            {"channels": None, "align_corners": True},
        ),
        ("reciprocam", ["gaussian=TRUE"], {"gaussian": True}),
        ("vit-reciprocam", ["gaussian=false"], {"gaussian": False}),
        ("ablationcam", ["value=-2", "ratio=0.5"], {"value": -2.0, "ratio": 0.5}),
        ("rise", ["n_masks=100", "probability=0.25"], {"n_masks": 100, "probability": 0.25}),
    ],
)
def test_options_have_the_kernels_types(
    method: str, pairs: list[str], expected: dict[str, Any]
) -> None:
    given = parse_options(method, pairs)
    assert given == expected
    assert [type(value) for value in given.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("method", "pair", "message"),
    [
        ("gradcam", "eps=1", "--option eps=1: gradcam has no options"),
        ("gradcam++", "eps", "--option 'eps'; expected name=value"),
        ("gradcam++", "=1", r"unknown option of gradcam\+\+ ''"),
        ("gradcam++", "epz=1", r"unknown option of gradcam\+\+ 'epz'; nearest: eps"),
        ("gradcam++", "eps=small", "--option eps=small; expected a number$"),
        ("gradcam++", "eps=", "--option eps=; expected a number$"),
        ("eigencam", "gram=both", "--option gram=both; expected space or channels or none$"),
        ("kpcacam", "gamma=x", "--option gamma=x; expected a number or none$"),
        ("randomcam", "seed=0.5", "--option seed=0.5; expected a whole number$"),
        ("gradcan", "eps=1", "unknown method 'gradcan'"),
        ("scorecam", "channels=all", "--option channels=all; expected a whole number or none$"),
        ("scorecam", "chunk=few", "--option chunk=few; expected a whole number or none$"),
        ("reciprocam", "gaussian=1", "--option gaussian=1; expected true or false$"),
    ],
)
def test_wrong_options(method: str, pair: str, message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message):
        parse_options(method, [pair])


def test_option_that_is_given_twice() -> None:
    with pytest.raises(InputError, match="--option eps is given twice"):
        parse_options("gradcam++", ["eps=1", "eps=2"])


def test_channels() -> None:
    assert add_channels("gradcam", {}, None) == {}
    for method in ("scorecam", "sscam", "iscam"):
        assert add_channels(method, {"chunk": 4}, 7) == {"chunk": 4, "channels": 7}
    for method in ("gradcam", "ablationcam", "rise"):
        message = f"--channels 7: {method} does not choose channels; scorecam, sscam, iscam do"
        with pytest.raises(InputError, match=message):
            add_channels(method, {}, 7)
    with pytest.raises(InputError, match="--channels 7 and --option channels=3 are the same"):
        add_channels("scorecam", {"channels": 3}, 7)


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_every_method_can_be_written(method: str) -> None:
    """As its default is printed, it is read back."""
    defaults = METHODS[method].options
    pairs = [f"{name}={value}" for name, value in defaults.items()]
    assert parse_options(method, pairs) == defaults


def test_output() -> None:
    assert parse_output(None) is None
    assert parse_output("1") == 1
    assert parse_output("out") == "out"


def test_targets_by_name_are_left_to_the_exporter() -> None:
    assert parse_target(None) is None
    for name in [*TARGETS, "nonsense"]:
        assert parse_target(name) == name


TARGET_MODULE = """
from camcore.export.trace.targets import segmentation

def ratio(output):
    return output["logits"].softmax(1)

in_the_middle = segmentation()
number = 3
"""


@pytest.fixture
def my_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_targets.py").write_text(TARGET_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_targets", raising=False)


@pytest.mark.usefixtures("my_targets")
def test_targets_of_ones_own() -> None:
    assert parse_target("my_targets:ratio").__name__ == "ratio"
    assert isinstance(parse_target("my_targets:in_the_middle"), Target)


@pytest.mark.usefixtures("my_targets")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my_targets:number", "--target my_targets:number is int; expected a function from"),
        ("my_targets:ratios", "unknown name in my_targets 'ratios'; nearest: ratio"),
        ("no_targets:ratio", "no module 'no_targets' in the working folder or installed"),
    ],
)
def test_wrong_targets_of_ones_own(text: str, message: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message):
        parse_target(text)


def test_examples() -> None:
    assert doctest.testmod(options) == doctest.TestResults(failed=0, attempted=3)
