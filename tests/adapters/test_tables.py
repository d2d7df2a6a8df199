from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from camcore.adapters import tables
from camcore.adapters.files import Port
from camcore.export.layers import LayerInfo
from camcore.methods import METHODS
from tests.adapters.toy import CARD


def printed(table: Table, width: int = 200) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def row(lines: list[str], first: str) -> list[str]:
    (line,) = (line for line in lines if line.strip("│ ").startswith(first))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_predictions_table() -> None:
    cat = {"class": 3, "name": "cat [tabby]", "score": 1.5}
    dog = {"class": 0, "name": "dog", "score": -2.0}
    owl = {"class": 7, "name": "owl", "score": -9.0}
    result = {
        "image": "photo.png",
        "predictions": [cat, dog],
        "explained": [{**cat, "peak": {"x": 10.5, "y": 4.0}}, {**owl, "peak": None}],
    }
    lines = printed(tables.predictions_table(result))
    assert row(lines, "cat") == ["cat [tabby]", "3", "1.500", "10.5, 4"]
    assert row(lines, "dog") == ["dog", "0", "-2.000", ""]
    assert row(lines, "owl") == ["owl", "7", "-9.000", "the map is zero"]


def test_card_table() -> None:
    lines = printed(tables.card_table(Path("a.onnx"), CARD))
    assert row(lines, "classes") == ["classes", "4: cat, dog, boxer, ..."]
    assert row(lines, "image") == ["image", "float32 RGB, any x any (height x width)"]
    prepared = "shorter side to 40, bilinear; middle 32 x 32 cut out"
    assert row(lines, "prepared by") == ["prepared by", prepared]
    fixed = replace(CARD, class_names=None, image=replace(CARD.image, height=24, width=32))
    lines = printed(tables.card_table(Path("a.onnx"), fixed))
    assert row(lines, "classes") == ["classes", "4: unnamed"]
    assert row(lines, "image") == ["image", "float32 RGB, 24 x 32 (height x width)"]


def test_ports_table() -> None:
    ports = [Port("image", "float32", ("B", 3)), Port("class_ids", "int64", (1,), optional=True)]
    lines = printed(tables.ports_table(ports, [Port("scores", "float32", ("B", 4))]))
    assert row(lines, "output") == ["output", "scores", "float32", "B x 4"]
    assert any("class_ids (optional)" in line for line in lines)


@pytest.mark.parametrize("width", [80, 200])
def test_methods_table_keeps_names_whole(width: int) -> None:
    lines = printed(tables.methods_table(METHODS.values()), width)
    names = {line.split("│")[1].strip() for line in lines if line.startswith("│")}
    assert names - {""} == set(METHODS)


def test_layers_table() -> None:
    layers = [
        LayerInfo("layer4", "Sequential", (512, 7, 7), True, True, "the last one"),
        LayerInfo("fc", "Linear", (1000,), False, False, "no grid"),
    ]
    lines = printed(tables.layers_table("net", layers))
    assert row(lines, "layer4") == ["layer4", "Sequential", "512 x 7 x 7", "default"]
    assert row(lines, "fc") == ["fc", "Linear", "1000", "no: no grid"]
    assert lines[-1].strip() == "the default, layer4: the last one"


def test_layers_table_keeps_names_whole_on_a_small_terminal() -> None:
    name = "features.denseblock4.denselayer16.conv2"
    reason = "its output is 1 x 1, there is nothing to map"
    layers = [
        LayerInfo(name, "Conv2d", (1024, 14, 14), True, False, ""),
        LayerInfo("pool", "AdaptiveAvgPool2d", (1024, 1, 1), False, False, reason),
    ]
    lines = printed(tables.layers_table("net", layers), width=80)
    assert row(lines, name) == [name, "Conv2d", "1024 x 14 x 14", "yes"]
    assert max(map(len, lines)) <= 80
