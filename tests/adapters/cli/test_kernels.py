from pathlib import Path

import onnx

from tests.adapters.cli.calls import camcore, done, failed


def test_kernels_are_written_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    names = ("--kernel", "hirescam", "--kernel", "layercam", "--kernel", "hirescam")
    text = done(camcore("kernels", "--output", folder, *names))
    assert sorted(path.name for path in folder.iterdir()) == ["hirescam.onnx", "layercam.onnx"]
    assert "activations, gradients" in text
    model = onnx.load(folder / "hirescam.onnx")
    assert " ".join(model.doc_string.split())[:30] in text


def test_unknown_kernels_and_folders(tmp_path: Path) -> None:
    message = failed(camcore("kernels", "-o", tmp_path / "new", "--kernel", "gradcan"))
    assert "unknown kernel 'gradcan'; nearest: gradcam" in message
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert "is a file" in failed(camcore("kernels", "-o", tmp_path / "file"))
