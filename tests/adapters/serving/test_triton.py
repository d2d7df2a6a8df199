"""Model repositories: what they hold, and a Triton server that answers from one."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import pytest

from camcore.adapters import load
from camcore.adapters.files import opened
from camcore.adapters.onnx_content import Port, onnx_ports
from camcore.adapters.serving.triton import _text, config, write_repository
from camcore.errors import InputError
from tests.adapters.toy import CARD, write_toy
from tests.adapters.untrained import write_spots

CLIENTS = Path(__file__).with_name("triton_clients.py")


def parsed(text: str) -> Any:
    """A configuration as Triton's own protobuf reads it."""
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse(text, messages.ModelConfig())


def ports(path: Path) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    with opened(path) as (content, _):
        return onnx_ports(content)


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_a_repository_around_a_file(spots: Path, tmp_path: Path, backend: Any) -> None:
    model = write_repository(spots, tmp_path / "models", name="seen", backend=backend, max_batch=4)
    assert model == tmp_path / "models" / "seen"
    assert (model / "1" / "model.onnx").read_bytes() == spots.read_bytes()
    assert (model / "1" / "model.py").exists() == (backend == "python")
    labels = (model / "labels.txt").read_text().splitlines()
    assert labels == list(load(spots).card.class_names or ())
    found = parsed((model / "config.pbtxt").read_text())
    assert (found.name, found.backend, found.max_batch_size) == ("seen", backend, 4)
    assert found.dynamic_batching.max_queue_delay_microseconds == 1000
    fp32, int64 = 11, 9
    assert [(port.name, port.data_type, list(port.dims)) for port in found.input] == [
        ("image", fp32, [3, -1, -1]),
        ("class_ids", int64, [-1]),
    ]
    assert [(port.name, port.data_type, list(port.dims)) for port in found.output] == [
        ("scores", fp32, [len(labels)]),
        ("classes", int64, [-1]),
        ("saliency_map", fp32, [-1, -1, -1]),
        ("boxes", fp32, [-1, 4, 4]),
        ("box_scores", fp32, [-1, 4]),
    ]
    assert [port.label_filename for port in found.output] == ["labels.txt", "", "", "", ""]


def test_an_input_with_a_default_is_left_out(toy_folder: Path, tmp_path: Path) -> None:
    model = write_repository(toy_folder / "toy.onnx", tmp_path, max_batch=1)
    found = parsed((model / "config.pbtxt").read_text())
    assert [port.name for port in found.input] == ["image"]
    assert not found.HasField("dynamic_batching")


def test_a_detector_takes_one_image_and_numbers_have_an_axis() -> None:
    image = Port("image", "float32", (1, 3, 64, 96))
    outputs = [
        Port("boxes", "float32", ("detections", 4)),
        Port("labels", "int64", ("detections",)),
    ]
    card = replace(CARD, outputs=("boxes", "labels", "scores", "detection_maps"))
    found = parsed(config("found", card, [image], outputs, "onnxruntime", 8, 1))
    assert found.max_batch_size == 0
    assert not found.HasField("dynamic_batching")
    assert [list(port.dims) for port in found.input] == [[1, 3, 64, 96]]
    assert [list(port.dims) for port in found.output] == [[-1, 4], [-1]]
    value = [Port("scores", "float32", ("batch",))]
    found = parsed(config("value", CARD, [], value, "onnxruntime", 8, 1))
    assert list(found.output[0].dims) == [1]
    assert found.output[0].HasField("reshape")
    assert list(found.output[0].reshape.shape) == []


def test_names_are_quoted() -> None:
    assert _text({"name": 'a "b"\n', "dims": [1, -1]}) == ['name: "a \\"b\\"\\n"', "dims: [1, -1]"]


def test_files_that_are_not_served(toy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"around \.onnx files"):
        write_repository(toy_folder / "toy.pt", tmp_path)
    stepwise = write_toy(tmp_path / "steps.onnx", replace(CARD, steps=4))
    with pytest.raises(InputError, match="without --stepwise"):
        write_repository(stepwise, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.onnx"]


@pytest.fixture(scope="module")
def triton_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of its own with nvidia-pytriton's server, which wants an old NumPy."""
    if "CAMCORE_TRITON_PYTHON" in os.environ:
        return Path(os.environ["CAMCORE_TRITON_PYTHON"])
    python = tmp_path_factory.mktemp("triton") / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "nvidia-pytriton", "onnxruntime"]
    if subprocess.run(install).returncode:
        pytest.skip("needs nvidia-pytriton")
    return python


@contextmanager
def server(python: Path, repository: Path, folder: Path) -> Iterator[str]:
    """The address of a server that answers from a repository."""
    packages = next(python.parents[1].glob("lib/python*/site-packages"))
    programs = shutil.copytree(packages / "pytriton/tritonserver", folder / "tritonserver")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = programs / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, programs / "backends" / "python")
    with closing(socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [programs / "bin/tritonserver", "--model-repository", repository]
    command += ["--backend-directory", programs / "backends", "--allow-grpc", "false"]
    command += ["--http-address", "127.0.0.1", "--http-port", str(port), "--allow-metrics", "false"]
    libraries = [packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    environment = os.environ | {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        # The server finds its Python by it.
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            if _is_ready(address):
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/health/ready"):
            return True
    except OSError:
        return False


@pytest.mark.slow
def test_ten_clients_at_once_get_the_runners_answers(triton_python: Path, tmp_path: Path) -> None:
    """To the bit one by one; run together, products are rounded in another order."""
    spots = write_spots(tmp_path / "spots.onnx", "required", boxes=None)
    for name, max_batch in (("alone", 1), ("together", 8)):
        write_repository(
            spots,
            tmp_path / "models",
            name=name,
            backend="python",
            max_batch=max_batch,
            delay=50_000,
        )
    rng = np.random.default_rng(0)
    sizes, classes = [(80, 80), (96, 64)], [[3], [-1], [0, 7], [-1, 2]]
    cases = [
        {
            "image": rng.normal(size=(1, 3, *sizes[n % 2])).astype(np.float32),
            "class_ids": np.array([classes[n % 4]]),
        }
        for n in range(40)
    ]
    given = {f"{n}.{name}": value for n, case in enumerate(cases) for name, value in case.items()}
    np.savez(tmp_path / "given.npz", **given)
    answers = {}
    with server(triton_python, tmp_path / "models", tmp_path) as address:
        for name in ("alone", "together"):
            clients = [triton_python, CLIENTS, address, name, tmp_path / "given.npz"]
            subprocess.run([*clients, tmp_path / f"{name}.npz"], check=True)
            answers[name] = dict(np.load(tmp_path / f"{name}.npz"))
    runner = load(spots)
    for n, case in enumerate(cases):
        for name, values in runner(case["image"], class_ids=case["class_ids"]).items():
            np.testing.assert_array_equal(answers["alone"][f"{n}.{name}"], values, err_msg=name)
            together = answers["together"][f"{n}.{name}"]
            np.testing.assert_allclose(together, values, rtol=0, atol=1e-5, err_msg=name)
    assert answers["alone"]["executions"] == len(cases)
    assert answers["together"]["executions"] < len(cases)
