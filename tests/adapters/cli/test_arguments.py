from pathlib import Path

from tests.adapters.cli.calls import camcore, failed


def test_export_of_a_model_of_several_inputs_is_left_to_python(tmp_path: Path) -> None:
    model = "tests.adapters.nets:build_with_table"
    for arguments in (["layers", model], ["export", model, "-o", str(tmp_path / "m.onnx")]):
        message = failed(camcore(*arguments))
        assert "WithTable takes image, table, of which the command line knows" in message
        assert "camcore.export.explain(model, (image, ...))" in message
