"""How a file learns which classes to explain: by an input, or by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from camcore.adapters import load
from camcore.errors import InputError, ProofError, UnknownNameError
from camcore.export import Explained, explain, save
from camcore.export.prove import prove as proving
from tests.export.conftest import LAYER
from tests.export.models import EXAMPLE, NUM_CLASSES, images
from tests.export.oracle import Result, assert_same, explain_by_hand, run_file

pytestmark = pytest.mark.usefixtures("shared_traces")

FORMATS = (".onnx", ".pt", ".pt2")
# What each file is asked by itself.
OWN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "best": ({"top": 2}, [-1, -1]),
    "all": ({}, list(range(NUM_CLASSES))),
}
NOBODYS = [[2, -2, NUM_CLASSES, -1, 2**40]]


@pytest.fixture(scope="module", params=OWN)
def of_itself(
    request: pytest.FixtureRequest, small_net: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    """A file of each format that takes no ids, and the ids that it should have of its own."""
    how, own = OWN[request.param]
    folder = tmp_path_factory.mktemp("own")
    explained = explain(small_net, EXAMPLE, layer=LAYER, class_ids=request.param, **how)
    for suffix in FORMATS:
        save(explained, folder / f"own{suffix}")
    return folder, own


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_that_take_no_ids(
    suffix: str, of_itself: tuple[Path, list[int]], small_net: nn.Module
) -> None:
    folder, own = of_itself
    run = load(folder / f"own{suffix}")
    for batch, *size in ((1, 24, 24), (3, 17, 40)):
        image = images(batch, batch, *size)
        given = run(image.numpy())
        by_hand = explain_by_hand(small_net, LAYER, image, torch.tensor([own]))
        assert_same(Result(given.scores, given.classes, given.saliency_map), by_hand)
    with pytest.raises(InputError, match=r"by itself: leave them out"):
        run(image.numpy(), class_ids=[1])


def test_such_a_graph_has_no_input_for_them(of_itself: tuple[Path, list[int]]) -> None:
    folder, own = of_itself
    graph = onnx.load(folder / "own.onnx").graph
    assert [value.name for value in graph.input] == ["image"]
    shape = graph.output[2].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in shape][:2] == ["batch", len(own)]


def test_an_optional_input_has_a_default(small_net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "optional.onnx"
    save(explain(small_net, EXAMPLE, layer=LAYER, class_ids="optional"), path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    image = images(7, 3, 24, 24)
    given = session.run(["classes", "saliency_map"], {"image": image.numpy()})
    asked = run_file(path, image, torch.tensor([[-1]]))
    np.testing.assert_array_equal(given[0], asked.classes)
    np.testing.assert_array_equal(given[1], asked.saliency_map)


def test_the_input_has_no_default_unless_asked_for(files: dict[str, Path]) -> None:
    graph = onnx.load(files[".onnx"]).graph
    assert "class_ids" not in {tensor.name for tensor in graph.initializer}
    session = onnxruntime.InferenceSession(files[".onnx"])
    with pytest.raises(ValueError, match="class_ids"):
        session.run(None, {"image": images(7, 3, 24, 24).numpy()})


@pytest.mark.parametrize("suffix", FORMATS)
def test_ids_of_no_class(suffix: str, files: dict[str, Path], small_net: nn.Module) -> None:
    """An empty map and -1, and never another class; beside them all is as it was."""
    image, ids = images(8, 2, 30, 21), torch.tensor(NOBODYS)
    given = run_file(files[suffix], image, ids)
    np.testing.assert_array_equal(given.classes[:, [1, 2, 4]], -1)
    np.testing.assert_array_equal(given.saliency_map[:, [1, 2, 4]], 0)
    kept = Result(given.scores, given.classes[:, [0]], given.saliency_map[:, [0]])
    assert_same(kept, explain_by_hand(small_net, LAYER, image, torch.tensor([[2]])))
    # The fourth best, by its place in the row.
    np.testing.assert_array_equal(given.classes[:, 3], np.argsort(-given.scores)[:, 3])


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("cam", {"layer": "top"}),
        ("eigencam", {}),
        ("gradcam++", {"aug_smooth": True}),
        ("ablationcam", {"chunk": 5}),
        ("rise", {"layer": None, "n_masks": 8, "normalize": False, "relu": False}),
        ("hirescam", {"target": "finer"}),
        ("fullgrad", {"layer": None}),
    ],
)
def test_ids_of_no_class_whatever_the_method(
    method: str, how: dict[str, Any], small_net: nn.Module
) -> None:
    explained = explain(small_net, EXAMPLE, method=method, **{"layer": LAYER, **how})
    image, asked = images(9, 2, 24, 24), explained
    given = asked(image, torch.tensor([[1, -2, NUM_CLASSES]]))
    assert given.classes.tolist() == [[1, -1, -1]] * 2
    assert given.saliency_map[:, 1:].abs().max() == 0
    alone = asked(image, torch.tensor([[1]]))
    torch.testing.assert_close(given.saliency_map[:, :1], alone.saliency_map)
    assert alone.saliency_map.abs().max() > 0


def test_steps_of_a_file_that_takes_no_ids(small_net: nn.Module, tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "ablationcam", "layer": LAYER, "chunk": 5}
    own = explain(small_net, EXAMPLE, class_ids="best", top=2, stepwise=True, **how)
    save(own, tmp_path / "steps.onnx")
    image = images(3, 2, 20, 28)
    done: list[int] = []
    given = load(tmp_path / "steps.onnx")(image.numpy(), progress=lambda n, _: done.append(n))
    asked = explain(small_net, EXAMPLE, **how)(image, torch.tensor([[-1, -1]]))
    np.testing.assert_array_equal(given.classes, asked.classes)
    np.testing.assert_allclose(given.saliency_map, asked.saliency_map, atol=1e-4)
    assert done[-1] == own.card.steps


def test_what_cannot_be_asked(small_net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nearest: best"):
        explain(small_net, EXAMPLE, class_ids="beste")
    with pytest.raises(InputError, match="top=3 is for class_ids='best'"):
        explain(small_net, EXAMPLE, top=3)
    with pytest.raises(InputError, match="1 or more, got 0"):
        explain(small_net, EXAMPLE, class_ids="best", top=0)
    with pytest.raises(InputError, match=f"top=6 .* the model has {NUM_CLASSES}"):
        explain(small_net, EXAMPLE, class_ids="best", top=6)
    optional = explain(small_net, EXAMPLE, layer=LAYER, class_ids="optional")
    for suffix in (".pt", ".pt2"):
        with pytest.raises(InputError, match=r"ONNX's alone\. Explain with"):
            save(optional, tmp_path / f"model{suffix}")
    best = explain(small_net, EXAMPLE, layer=LAYER, class_ids="best")
    with pytest.raises(InputError, match="leave them out"):
        best(images(1, 1, 24, 24), torch.tensor([[1]]))
    assert best(images(1, 1, 24, 24)).classes.shape == (1, 1)


def test_the_proof_of_a_file_that_takes_one_row_of_ids_alone_for_one_image(
    explained: Explained, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file would where onnxruntime is told that there are as many rows as images."""
    load_file = proving.load

    def load_narrow(*given: Any) -> Any:
        runtime, run = load_file(*given)

        def narrow(image: Tensor, ids: Tensor) -> Any:
            *others, maps = run(image, ids)
            return *others, maps if len(ids) == len(image) else maps * 0

        return runtime, narrow

    monkeypatch.setattr(proving, "load", load_narrow)
    with pytest.raises(ProofError, match="other maps for one row of class_ids"):
        proving.prove(files[".onnx"], explained)


@pytest.mark.slow
def test_openvino_takes_ids(files: dict[str, Path]) -> None:
    """Two inputs, each of any batch, size and K, and none of them baked in."""
    openvino = pytest.importorskip("openvino", reason="the extra [serving] is not installed")
    core = openvino.Core()
    model = core.read_model(files[".onnx"])
    assert [port.any_name for port in model.inputs] == ["image", "class_ids"]
    # Its default is half precision where the processor has it.
    run = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for seed, shape, ids in ((1, (3, 17, 40), [[4, -1]]), (2, (1, 24, 24), [[0]])):
        image, ids = images(seed, *shape), torch.tensor(ids)
        given = run({"image": image.numpy(), "class_ids": ids.expand(len(image), -1).numpy()})
        assert_same(Result(*map(given.__getitem__, range(3))), run_file(files[".onnx"], image, ids))
