import re
from dataclasses import replace
from pathlib import Path

import pytest

from camcore.card import ImageSpec
from camcore.errors import ExportError, ProofError
from camcore.export.trace.targets import TARGETS
from tests.adapters import nets
from tests.adapters.cli.calls import camcore, done, failed
from tests.adapters.cli.fake_export import FakeExport
from tests.adapters.toy import CARD


def test_export_hands_everything_over(fake_export: FakeExport, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    arguments = ("--weights", "none", "--method", "layercam", "--layer", "layer3", "-o", path)
    text = done(camcore("export", "squeezenet1_1", *arguments, "--size", "448", "--fixed-size"))
    assert f"wrote {path}: gradcam of squeezenet1_1 at features" in text
    assert "note: this [and] that" in text
    asked = fake_export.asked
    assert asked.pop("model").training is False
    assert asked.pop("example").shape[1:] == (3, 448, 448)
    assert asked == {
        "class_names": None,
        "method": "layercam",
        "layer": ["layer3"],
        "eigen_smooth": False,
        "aug_smooth": False,
        "normalize": True,
        "full_size": True,
        "stepwise": False,
        "pixels": False,
        "class_ids": "required",
        "top": None,
        "model_name": "squeezenet1_1",
        "image_spec": ImageSpec(None, None, resize=512, crop=(448, 448)),
        "dynamic_size": False,
        "frames": False,
    }


def test_export_in_steps(fake_export: FakeExport, tmp_path: Path) -> None:
    arguments = ("--weights", "none", "--method", "rise", "--stepwise", "-o", tmp_path / "m.onnx")
    done(camcore("export", "squeezenet1_1", *arguments))
    assert fake_export.asked["stepwise"] is True


def test_export_of_candidates(fake_export: FakeExport, tmp_path: Path) -> None:
    arguments = ("--weights", "none", "--detections", "yolo", "-o", tmp_path / "m.onnx")
    done(camcore("export", "squeezenet1_1", *arguments, "--size", "64x96"))
    assert fake_export.asked["detections"] == "yolo"
    assert fake_export.asked["example"].shape == (1, 3, 64, 96)


def test_export_with_boxes(fake_export: FakeExport, tmp_path: Path) -> None:
    arguments = ("--weights", "none", "--boxes", "4", "-o", tmp_path / "m.onnx")
    done(camcore("export", "squeezenet1_1", *arguments))
    assert fake_export.asked["boxes"] == 4
    assert "box_confidence" not in fake_export.asked
    done(camcore("export", "squeezenet1_1", *arguments, "--box-confidence", "sigmoid"))
    assert fake_export.asked["box_confidence"] == "sigmoid"
    assert camcore("export", "squeezenet1_1", *arguments, "--boxes", "0").exit_code == 2


def test_export_with_concepts(fake_export: FakeExport, tmp_path: Path) -> None:
    arguments = ("--weights", "none", "--concepts", "4", "-o", tmp_path / "m.onnx")
    done(camcore("export", "squeezenet1_1", *arguments))
    assert fake_export.asked["concepts"] == 4


def test_export_defaults(fake_export: FakeExport, tmp_path: Path) -> None:
    done(camcore("export", "squeezenet1_1", "--weights", "none", "-o", tmp_path / "m.pt2"))
    assert fake_export.asked["dynamic_size"] is None
    assert fake_export.asked["layer"] is None
    assert fake_export.asked["example"].shape[1:] == (3, 224, 224)
    assert fake_export.asked["image_spec"].crop == (224, 224)


_PLAIN = {"model", "example", "model_name", "class_names", "image_spec", "dynamic_size", "frames"}


def test_export_hands_over_how_the_maps_are_made(fake_export: FakeExport, tmp_path: Path) -> None:
    arguments = [
        *("--method", "gradcam++", "--option", "eps=0.5", "--layer", "a", "--layer", "b"),
        *("--combine", "product", "--eigen-smooth", "--aug-smooth", "--no-relu", "--no-normalize"),
        *("--map-size", "feature", "--pixels", "--target", "probability", "--explain-output", "1"),
    ]
    path = tmp_path / "m.onnx"
    done(camcore("export", "squeezenet1_1", "--weights", "none", "-o", path, *arguments))
    asked = fake_export.asked
    assert {name: asked[name] for name in asked if name not in _PLAIN} == {
        "method": "gradcam++",
        "eps": 0.5,
        "layer": ["a", "b"],
        "combine": "product",
        "eigen_smooth": True,
        "aug_smooth": True,
        "relu": False,
        "normalize": False,
        "full_size": False,
        "stepwise": False,
        "pixels": True,
        "class_ids": "required",
        "top": None,
        "target": "probability",
        "output": 1,
    }


def test_export_hands_over_the_options_of_many_passes(
    fake_export: FakeExport, tmp_path: Path
) -> None:
    built = ("squeezenet1_1", "--weights", "none", "-o", tmp_path / "m.onnx")
    score = ("--method", "scorecam", "--channels", "8", "--option", "align_corners=true")
    done(camcore("export", *built, *score))
    asked = {name: fake_export.asked[name] for name in ("method", "channels", "align_corners")}
    assert asked == {"method": "scorecam", "channels": 8, "align_corners": True}
    refused = failed(camcore("export", *built, "--method", "rise", "--channels", "8"))
    assert "--channels 8: rise does not choose channels; scorecam, sscam, iscam do" in refused
    assert camcore("export", *built, "--channels", "0").exit_code == 2


def test_export_help_names_every_target() -> None:
    text = done(camcore("export", "--help"))
    for name in TARGETS:
        assert re.search(rf"\b{name}\b", text), name


def test_export_with_class_names_and_a_shape(fake_export: FakeExport, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbfone\r\ntwo \r\n\r\n \n")
    arguments = ("--size", "96x128", "--class-names", names, "--dynamic-size")
    path = tmp_path / "m.onnx"
    done(camcore("export", "squeezenet1_1", "--weights", "none", *arguments, "-o", path))
    assert fake_export.asked["class_names"] == ("one", "two")
    assert fake_export.asked["example"].shape[1:] == (3, 96, 128)
    assert fake_export.asked["image_spec"] == ImageSpec(None, None, resize=(96, 128))
    assert fake_export.asked["dynamic_size"] is True


OWN = "tests.adapters.nets:build_painter"


def test_what_is_assumed_is_told(fake_export: FakeExport, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    text = done(camcore("export", OWN, "-o", path))
    assert (
        "assumed, as nothing says otherwise: mean 0.485 0.456 0.406, std 0.229 0.224 0.225, RGB, "
        "shorter side to 224, bilinear; middle 224 x 224 cut out."
    ) in text
    assert "give --mean, --std, --resize, --crop, --colour wrote" in text
    stated = ("--mean", "0.5", "--std", "0.1,0.2,0.3", "--resize", "256", "--crop", "192")
    more = ("--interpolation", "bicubic", "--colour", "BGR")
    assert "otherwise" not in done(camcore("export", OWN, "-o", path, *stated, *more))
    assert fake_export.asked["example"].shape[1:] == (3, 192, 192)
    assert fake_export.asked["image_spec"] == ImageSpec(
        None,
        None,
        mean=(0.5, 0.5, 0.5),
        std=(0.1, 0.2, 0.3),
        resize=256,
        crop=(192, 192),
        interpolation="bicubic",
        colour="BGR",
    )
    text = done(camcore("export", OWN, "-o", path, "--mean", "0.5", "--size", "32"))
    assert "otherwise: std 0.229 0.224 0.225, RGB, shorter side to 32, bilinear; middle" in text
    assert "give --std, --resize, --crop, --colour wrote" in text


def test_names_of_another_head_are_not_taken(
    fake_export: FakeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nets.build_painter

    def build_named() -> object:
        net = plain()
        object.__setattr__(net, "names", {0: "a", 1: "b", 2: "c", 3: "d"})
        return net

    monkeypatch.setattr(nets, "build_painter", build_named)
    for fake_export.classes, expected in ((4, ("a", "b", "c", "d")), (5, None)):
        done(camcore("export", OWN, "-o", tmp_path / "m.onnx"))
        assert fake_export.asked["class_names"] == expected


def test_that_nothing_names_the_classes_is_told(
    fake_export: FakeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = tmp_path / "m.onnx", "nothing names the classes, which are told by their numbers"
    assert said not in done(camcore("export", OWN, "-o", path))  # the card has names
    unnamed = replace(CARD, class_names=None)
    monkeypatch.setattr(fake_export, "save", lambda explained, path, check: unnamed)
    assert said in done(camcore("export", OWN, "-o", path))


def test_export_without_output_says_where_it_wrote(
    fake_export: FakeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrote build_painter-gradcam++.onnx" in done(
        camcore("export", OWN, "--method", "gradcam++")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["build_painter-gradcam++.onnx"]


@pytest.mark.parametrize("error", [ExportError("no [rule] for op"), ProofError("maps differ")])
def test_failed_export_is_one_line_and_code_1(
    fake_export: FakeExport, tmp_path: Path, error: Exception
) -> None:
    fake_export.error = error
    result = camcore("export", "squeezenet1_1", "--weights", "none", "-o", tmp_path / "m.onnx")
    assert str(error) in failed(result, code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "unknown model 'resnet19'"),
        (["resnet18", "--weights", "none.pt"], "none.pt does not exist"),
        (["resnet18", "--size", "big"], "--size 'big'; expected 224"),
        (["resnet18", "--size", "1x2x3"], "--size '1x2x3'"),
        (["resnet18", "--size", "0"], "--size '0'"),
        (["resnet18", "--class-names", "none.txt"], "none.txt cannot be read"),
        (["resnet18", "--mean", "a"], "--mean 'a'; expected a number for each of 3 channels"),
        (["resnet18", "--mean", "1,2", "--colour", "grey"], "for each of 1 channels"),
        (["resnet18", "--std", "0,1,1"], "--std 0,1,1 divides by zero"),
        (["resnet18", "--resize", "big"], "--resize 'big'; expected 224, or height x width"),
        (["resnet18", "--crop", "1x2x3"], "--crop '1x2x3'"),
        (["https://a.org/m.pt", "--weights", "none"], "https://a.org/m.pt is a URL"),
        (["resnet18", "--weights", "https://a.org/m.pt"], "https://a.org/m.pt is a URL"),
        (["resnet18", "--option", "eps=1"], "gradcam has no options"),
        (["resnet18", "--option", "k=a", "--method", "fem"], "--option k=a; expected a number"),
        (["resnet18", "--method", "gradcan", "--option", "k=1"], "unknown method 'gradcan'"),
        (["resnet18", "--target", "no_module:f"], "no module 'no_module' in the working folder"),
    ],
)
def test_export_errors(
    fake_export: FakeExport, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in failed(camcore("export", *arguments, "-o", tmp_path / "m.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_export_to_an_unknown_format_fails_at_once(fake_export: FakeExport) -> None:
    assert "has the suffix '.h5'; expected .onnx" in failed(
        camcore("export", "resnet18", "-o", "m.h5")
    )
    assert fake_export.asked == {}


def test_export_into_a_missing_folder_fails_at_once(fake_export: FakeExport) -> None:
    message = failed(camcore("export", "resnet18", "-o", "none/m.onnx"))
    assert "there is no folder none; make it first" in message
    assert fake_export.asked == {}


def test_export_over_what_it_reads_or_a_folder_fails_at_once(
    fake_export: FakeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.pt").write_text("weights")
    Path("folder.onnx").mkdir()
    message = failed(camcore("export", "resnet18", "--weights", "mine.pt", "-o", "mine.pt"))
    assert "--output mine.pt would replace mine.pt, which is read" in message
    message = failed(camcore("export", "resnet18", "-o", "folder.onnx"))
    assert "--output folder.onnx is a folder; give a file" in message
    assert fake_export.asked == {}
    assert Path("mine.pt").read_text() == "weights"


def test_export_hands_over_how_classes_are_chosen(fake_export: FakeExport, tmp_path: Path) -> None:
    built = ("squeezenet1_1", "--weights", "none", "-o", tmp_path / "m.onnx")
    done(camcore("export", *built, "--class-ids", "best", "--top", "3"))
    assert (fake_export.asked["class_ids"], fake_export.asked["top"]) == ("best", 3)
    done(camcore("export", *built))
    assert (fake_export.asked["class_ids"], fake_export.asked["top"]) == ("required", None)
    assert camcore("export", *built, "--class-ids", "any").exit_code == 2
