import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from camcore.adapters.demo.dataset import write_scenes
from camcore.export import Explained, explain, save
from tests.adapters.cli.calls import camcore, done
from tests.adapters.nets import build_painter, build_with_mask, build_with_table
from tests.adapters.toy import CARD, UINT8_CARD, write_endless_toy, write_toy
from tests.adapters.untrained import write_spots


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    for suffix in (".onnx", ".pt", ".pt2"):
        write_toy(folder / f"toy{suffix}")
    return folder


@pytest.fixture(scope="session")
def uint8_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with the preprocessing in the graph."""
    folder = tmp_path_factory.mktemp("uint8")
    for suffix in (".onnx", ".pt", ".pt2"):
        write_toy(folder / f"toy{suffix}", UINT8_CARD)
    return folder


@pytest.fixture(scope="session")
def fixed_size_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose card says that it takes images of 24 x 32 alone."""
    spec = replace(CARD.image, height=24, width=32, resize=None, crop=None)
    return write_toy(tmp_path_factory.mktemp("fixed") / "fixed.onnx", replace(CARD, image=spec))


@pytest.fixture(scope="session")
def with_table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a picture and a row of numbers in the three formats, by the real exporter."""
    folder = tmp_path_factory.mktemp("table")
    example = (torch.zeros(1, 3, 24, 24), torch.zeros(1, 2))
    for suffix in (".onnx", ".pt", ".pt2"):
        explained = explain(build_with_table().eval(), example, output="logits")
        save(explained, folder / f"table{suffix}")
    return folder


@pytest.fixture(scope="session")
def masked() -> Explained:
    """A model of a picture and of truth values that mask its channels."""
    example = (torch.zeros(1, 3, 24, 24), torch.ones(1, 4, dtype=torch.bool))
    return explain(build_with_mask().eval(), example)


@pytest.fixture(scope="session")
def masked_onnx(masked: Explained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masked") / "masked.onnx"
    save(masked, path)
    return path


@pytest.fixture(scope="session")
def segmenter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation model by the command line, with maps at image size and at the layer's own.

    What was printed lies beside each file.
    """
    folder = tmp_path_factory.mktemp("segmenter")
    names = folder / "names.txt"
    names.write_text("sky\nsea\nsand\n")
    model = ("tests.adapters.nets:build_segmenter", "--size", "32", "--class-names", names)
    explained = ("--target", "segmentation", "--layer", "backbone")
    for size in ("image", "feature"):
        file = folder / f"{size}.onnx"
        result = camcore("export", *model, *explained, "--map-size", size, "-o", file)
        (folder / f"{size}.txt").write_text(done(result))
    return folder


@pytest.fixture(scope="session")
def stepwise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes its 11 passes in four steps in the three formats, by the real exporter."""
    folder = tmp_path_factory.mktemp("stepwise")
    explained = explain(
        build_painter().eval(),
        torch.zeros(1, 3, 24, 24),
        method="ablationcam",
        layer="0",
        chunk=3,
        stepwise=True,
    )
    for suffix in (".onnx", ".pt", ".pt2"):
        save(explained, folder / f"stepwise{suffix}")
    return folder


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose run takes weeks."""
    return write_endless_toy(tmp_path_factory.mktemp("endless") / "endless.onnx")


@pytest.fixture
def press_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C comes a moment after onnxruntime has begun to run."""
    begun, over = threading.Event(), threading.Event()
    plain = onnxruntime.InferenceSession.run

    def run(*arguments: Any) -> Any:
        begun.set()
        return plain(*arguments)

    def press() -> None:
        if begun.wait(60) and not over.wait(0.3):
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    # Who starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    presser = threading.Thread(target=press)
    presser.start()
    yield
    over.set()
    begun.set()
    presser.join()
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is told which classes to explain."""
    return write_spots(tmp_path_factory.mktemp("spots") / "spots.onnx", "required")


@pytest.fixture(scope="session")
def all_spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of every class."""
    return write_spots(tmp_path_factory.mktemp("all") / "all.onnx", "all")


@pytest.fixture(scope="session")
def best_spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of the three best classes."""
    return write_spots(tmp_path_factory.mktemp("best") / "best.onnx", "best", top=3)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with seven scenes as a data set in COCO's format."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 7, size=(96, 112))
    return folder
