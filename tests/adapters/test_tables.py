from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, Group
from rich.table import Table

from camcore.adapters import tables
from camcore.adapters.images import prepare
from camcore.adapters.onnx_content import Port
from camcore.card import Card, ImageSpec, assume_image
from camcore.export.find.layers import LayerInfo
from camcore.export.trace.targets import TARGETS
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


CAT = {"class": 3, "name": "cat [tabby]", "score": 1.5, "probability": 0.75}
OWL = {"class": 7, "name": "owl", "score": -9.0, "probability": 0.001}


def predictions(card: Card, scored: bool = True) -> list[str]:
    dog = {"class": 0, "name": "dog", "score": -2.0, "probability": 0.0625}
    explained = [{**CAT, "peak": {"x": 10.5, "y": 4.0}}, {**OWL, "peak": None}]
    listed = [CAT, dog] if scored else []
    if not scored:
        explained = [{**entry, "score": None, "probability": None} for entry in explained]
    result = {"image": "photo.png", "predictions": listed, "explained": explained}
    return printed(tables.predictions_table(result, card))


def test_predictions_table() -> None:
    lines = predictions(CARD)
    assert row(lines, "cat") == ["cat [tabby]", "3", "75.0%", "1.500", "10.5, 4"]
    assert row(lines, "dog") == ["dog", "0", "6.2%", "-2.000", ""]
    assert row(lines, "owl") == ["owl", "7", "0.1%", "-9.000", "none"]
    assert lines[-1].startswith("└")


def test_predictions_table_without_scores() -> None:
    lines = predictions(replace(CARD, options={"target": "segmentation"}), scored=False)
    assert not any("score │" in line or " ┃ score" in line for line in lines)
    assert row(lines, "cat") == ["cat [tabby]", "3", "10.5, 4"]
    assert row(lines, "owl") == ["owl", "7", "none"]
    assert lines[-2:] == [
        "The maps show the class's pixels together.",
        "The file gives no scores of whole classes.",
    ]


@pytest.mark.parametrize(
    ("target", "note"),
    [(name, "" if name == "logit" else "The maps show the") for name in TARGETS]
    + [("my[ratio]", "The maps show the target my[ratio].")],
)
def test_predictions_table_says_what_was_explained(target: str, note: str) -> None:
    notes = " ".join(predictions(replace(CARD, options={"target": target}))).split("┘")[1]
    assert note in " ".join(notes.replace("what tells", "the").split())
    assert bool(notes.strip()) == bool(note)
    assert target in TARGETS or tables.target_suffix(replace(CARD, options={"target": target}))


@pytest.mark.parametrize(
    ("method", "noted"), [("eigencam", True), ("gradcam", False), ("from the future", False)]
)
def test_predictions_table_says_where_classes_share_a_map(method: str, noted: bool) -> None:
    text = " ".join(" ".join(predictions(replace(CARD, method=method))).split())
    assert (f"{method} gives every class the same map." in text) == noted


def test_card_table_says_what_the_maps_are() -> None:
    card = replace(
        CARD,
        layer="layer3, layer4",
        map_size="feature",
        inputs=("image", "input_1", "class_ids"),
        options={
            "eps": 0.5,
            "gram": None,
            "target": "probability",
            "relu": False,
            "normalize": False,
            "combine": "product",
            "eigen_smooth": True,
            "aug_smooth": True,
        },
    )
    lines = printed(tables.card_table(Path("a.onnx"), card))
    assert row(lines, "target") == ["target", "probability"]
    assert row(lines, "options") == ["options", "eps 0.5"]
    assert row(lines, "maps") == [
        "maps",
        "as the method gives them, at the layer's size, no relu, product of the layers, smoothed "
        "by the first component, mean over six variants of the image",
    ]
    assert row(lines, "inputs") == ["inputs", "image, input_1, class_ids"]
    outputs = ("species", "breed", "classes", "saliency_map")
    lines = printed(tables.card_table(Path("a.onnx"), replace(CARD, outputs=outputs)))
    assert row(lines, "target") == ["target", "logit"]
    card = replace(CARD, outputs=outputs, explained="breed")
    assert row(printed(tables.card_table(Path("a.onnx"), card)), "target") == [
        "target",
        "logit of breed",
    ]
    plain = printed(tables.card_table(Path("a.onnx"), replace(CARD, explained="scores")))
    assert row(plain, "target") == ["target", "logit"]
    assert row(plain, "options") == ["options", "none"]
    assert row(plain, "maps") == ["maps", "in [0, 1], at image size"]


def test_card_table_of_boxes() -> None:
    assert row(printed(tables.card_table(Path("a.onnx"), CARD)), "boxes") == ["boxes", "none"]
    detector = replace(CARD, outputs=("boxes", "labels", "scores", "detection_maps"))
    (_, told) = row(printed(tables.card_table(Path("a.onnx"), detector)), "boxes")
    assert told == "those that the detector finds"
    text = "up to 3 on each map, above Otsu's threshold; scored by the map's mean"
    for confidence, more in (("none", ""), ("sigmoid", ", times the sigmoid of the class's score")):
        card = replace(CARD, boxes=3, options={"box_confidence": confidence})
        lines = printed(tables.card_table(Path("a.onnx"), card))
        assert row(lines, "boxes") == ["boxes", text + more]
        assert row(lines, "options") == ["options", "none"]


def test_card_table_of_concepts() -> None:
    lines = printed(tables.card_table(Path("a.onnx"), replace(CARD, concepts=4)))
    assert row(lines, "concepts") == ["concepts", "4 of the layer's"]


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


def test_methods_list_at_80_columns() -> None:
    lines = printed(tables.methods_list(METHODS.values()), width=80)
    assert max(map(len, lines)) <= 80
    names = [line.strip() for line in lines if line.strip() and not line.startswith(" ")]
    assert names == [*METHODS, "What a method costs comes on top of the prediction."]
    text = " ".join(" ".join(lines).split())
    for method in METHODS.values():
        assert method.summary in text
        assert f"needs {method.needs.replace('_', ' ')}; costs" in text
        assert any(method.paper in line for line in lines), "in one piece, to be copied"


def test_methods_list_tells_how_many_passes_may_be_chosen() -> None:
    lines = printed(tables.methods_list(METHODS.values()), width=80)
    text = " ".join(" ".join(lines).split())
    for options in (
        "value=0, ratio=1, chunk=none",
        "channels=none, align_corners=false, chunk=none",
        "gaussian=false, chunk=none",
        "gaussian=true, chunk=none",
        "n_masks=4000",
    ):
        assert options in text


def test_methods_list_tells_methods_apart() -> None:
    def listed(name: str) -> list[str]:
        lines = printed(tables.methods_list([METHODS[name]]))
        return [line.strip() for line in lines[1:-2]]

    assert "options eps=1e-06; eigen-smooth possible" in listed("gradcam++")
    assert "the same map for every class; options gram=none" in listed("eigencam")
    assert "needs activations; costs no further pass" in listed("eigencam")
    assert listed("hirescam")[-2] == "eigen-smooth possible"


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


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (ImageSpec(None, None), "no resizing, no cropping"),
        (ImageSpec(None, None, resize=256), "shorter side to 256, bilinear"),
        (
            ImageSpec(224, 224, resize=256, crop=(224, 224)),
            "shorter side to 256, bilinear; middle 224 x 224 cut out",
        ),
        (ImageSpec(96, 128), "stretched to 96 x 128, bilinear"),
        (ImageSpec(96, 128, resize=(96, 128)), "stretched to 96 x 128, bilinear"),
        (
            ImageSpec(96, None, resize=128, interpolation="bicubic"),
            "shorter side to 128, bicubic; stretched to 96 x its own, bicubic",
        ),
    ],
)
def test_preparation_is_what_prepare_does(spec: ImageSpec, told: str) -> None:
    """It is told that an image is stretched wherever one of two to one becomes another shape."""
    assert tables.preparation(spec) == told
    image = np.zeros((200, 400, 3), np.uint8)
    array, placement = prepare(image, spec)
    seen = (placement.bottom - placement.top) / (placement.right - placement.left)
    stretched = array.shape[2] / array.shape[3] != pytest.approx(seen, rel=0.01)
    assert stretched == ("stretched" in told)


def test_what_is_assumed_stands_on_the_table() -> None:
    spec = assume_image((28, 28), 1, mean=(0.5,))
    lines = printed(tables.card_table(Path("m.onnx"), replace(CARD, image=spec)))
    assert row(lines, "assumed")[1] == "std 1, shorter side to 28, bilinear; middle 28 x 28 cut out"
    assert "float32 grey" in row(lines, "image")[1]
    assert not any("assumed" in line for line in printed(tables.card_table(Path("m"), CARD)))
    assert tables.assumed_options(spec) == "--std, --resize, --crop"
