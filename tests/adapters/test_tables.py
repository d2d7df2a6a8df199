from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, Group
from rich.table import Table

from camcore.adapters import tables
from camcore.adapters.files import Port
from camcore.export.layers import LayerInfo
from camcore.methods import METHODS
from tests.adapters.toy import CARD


def printed(table: Table | Group, width: int = 200) -> list[str]:
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
    assert row(lines, "owl") == ["owl", "7", "-9.000", "none"]


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


LAYERS = [
    LayerInfo("layer4", "Sequential", (512, 7, 7), True, True, "the last one"),
    LayerInfo("pool", "AdaptiveAvgPool2d", (512, 1, 1), False, False, "it is 1 x 1"),
    LayerInfo("fc", "Linear", (1000,), False, False, "no grid"),
    LayerInfo("head", "Linear", (10,), False, False, "no grid"),
]


def test_layers_table_lists_what_can_be_explained() -> None:
    lines = [line.rstrip() for line in printed(tables.layers_table("net", LAYERS))]
    assert lines[1].split() == ["layer", "output", "kind"]
    assert lines[3:] == [
        "*   layer4   512 x 7 x 7   Sequential",
        "",
        "* layer4 is the default: the last one",
        "Left out, listed with --all:",
        "1 layer: it is 1 x 1",
        "2 layers: no grid",
    ]


def test_layers_table_of_everything() -> None:
    table = tables.layers_table("net", LAYERS, everything=True)
    lines = [line.rstrip() for line in printed(table)]
    assert lines[3:] == [
        "*   layer4   512 x 7 x 7   Sequential",
        "1   pool     512 x 1 x 1   AdaptiveAvgPool2d",
        "2   fc       1000          Linear",
        "2   head     10            Linear",
        "",
        "* layer4 is the default: the last one",
        "1: it is 1 x 1",
        "2: no grid",
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("features.denseblock4.denselayer16.conv2", "BatchNorm2dWit…"),
        ("encoder.layers.encoder_layer_11.self_attention", "BatchNo…"),
        ("trunk_output.block3.block3-10.f.se.scale_activation", ""),
    ],
)
def test_layers_table_keeps_names_whole_at_80_columns(name: str, shown: str) -> None:
    """The kind gives way: it is cut, then left out."""
    reason = "its output is a row of tokens (B, T, C), and nobody said how to lay it out as a grid"
    layers = [
        LayerInfo(name, "BatchNorm2dWithALongName", (1024, 112, 112), True, True, "the last"),
        LayerInfo("tokens", "Linear", (197, 768), False, False, reason),
    ]
    lines = printed(tables.layers_table("net", layers, everything=True), width=80)
    assert max(map(len, lines)) <= 80
    assert [line.rstrip() for line in lines if name in line] == [
        f"*   {name}   1024 x 112 x 112   {shown}".rstrip(),
        f"* {name} is the default: the last",
    ]
    assert f"1: {reason}" in " ".join(line.strip() for line in lines)


def test_layers_table_folds_what_has_no_room() -> None:
    name = "a_module_with_a_name_longer_than_a_line." * 3
    layers = [LayerInfo(name, "Conv2d", (64, 112, 112), True, False, "")]
    lines = printed(tables.layers_table("net", layers, width=60), width=60)
    assert "".join(line[3:40].strip() for line in lines[3:]).startswith(name)
    assert "64 x 112 x 112" in lines[3]
    assert max(map(len, lines)) <= 60
    narrow = printed(tables.layers_table("net", layers, width=10), width=10)
    assert max(map(len, narrow)) <= 10
