from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.adapters.evaluation.plot import curves_svg, write_curves
from camcore.errors import FileError


def lines(svg: str, namespace: str = "") -> dict[str, list[tuple[float, float]]]:
    """The points of each curve, by its name."""
    return {
        each.findtext(f"{namespace}title", ""): [
            (float(x), float(y))
            for x, y in (pair.split(",") for pair in each.attrib["points"].split())
        ]
        for each in ET.fromstring(svg).iter(f"{namespace}polyline")
    }


@given(st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=12))
def test_curves_are_where_their_values_are(shares: list[list[float]]) -> None:
    """By the two lines of the grid that are 0 and 1; names are no markup."""
    thresholds = [0, 0.25, 0.5, 0.75, 1]
    curves = {f"<{number}>": each for number, each in enumerate(shares)}
    found = lines(curves_svg(thresholds, curves, "<share>"))
    assert found.keys() == curves.keys()
    ends = lines(curves_svg([0, 1], {"low": [0, 0], "high": [1, 1]}, ""))
    (left, bottom), (right, top) = ends["low"][0], ends["high"][1]
    assert left < right
    assert bottom > top
    for name, points in found.items():
        for (x, y), threshold, share in zip(points, thresholds, curves[name], strict=True):
            assert x == pytest.approx(left + threshold * (right - left), abs=0.1)
            assert y == pytest.approx(bottom + share * (top - bottom), abs=0.1)


def test_the_best_are_named_and_the_others_grey() -> None:
    curves = {f"m{number}": [number / 20] for number in range(10)}
    root = ET.fromstring(curves_svg([0.5], curves, "share"))
    texts = ["".join(each.itertext()) for each in root.iter("text")]
    named = [text for text in texts if text.startswith("m")]
    assert sorted(named, key=lambda text: text[1], reverse=True)[0] == "m9: 45.0%"
    assert {text[:2] for text in named} == {"m3", "m4", "m5", "m6", "m7", "m8", "m9"}
    strokes = {each.findtext("title"): each.get("stroke") for each in root.iter("polyline")}
    assert strokes["m0"] == strokes["m2"] != strokes["m9"]
    assert len(set(strokes.values())) == 8


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    curves = {"thresholds": [0.0], "box_acc": [0.5], "box_acc_v2": {"0.3": [1.0]}}
    with pytest.raises(FileError, match="cannot be written"):
        write_curves(tmp_path / "no" / "a.svg", curves)
    write_curves(tmp_path / "a.svg", curves)
    found = lines((tmp_path / "a.svg").read_text(), "{http://www.w3.org/2000/svg}")
    assert found.keys() == {"MaxBoxAcc, IoU 0.5", "V2, IoU 0.3"}
