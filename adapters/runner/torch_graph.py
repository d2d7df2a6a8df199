"""Torch graph: a TorchScript or .pt2 file run by torch."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from camcore.adapters.archives import check_storages, check_unpickled
from camcore.adapters.files import reading
from camcore.adapters.runner.opening import Device, Graph, Opening
from camcore.card import QUERIES, Card
from camcore.errors import FileError, InputError

if TYPE_CHECKING:
    import torch


def open_torchscript(opening: Opening, card: Card) -> Graph:
    """A TorchScript file as a function of its inputs."""
    path, device = opening.path, opening.device
    with reading(path), path.open("rb") as file:
        check_storages(path, file)
    torch = _torch(device, card)
    with warnings.catch_warnings():
        # torch recommends torch.export instead; that is the .pt2 beside this format.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated")
        try:
            module = torch.jit.load(path, map_location=device)
        except Exception as error:  # its reader raises whatever it stumbles over
            raise FileError(f"torch {torch.__version__} cannot load {path}: {error}") from error
    return _torch_graph(module, opening)


def open_exported(opening: Opening, card: Card) -> Graph:
    """A .pt2 file as a function of its inputs."""
    path, device = opening.path, opening.device
    with reading(path), path.open("rb") as file:
        check_unpickled(path, file)
    torch = _torch(device, card)
    with warnings.catch_warnings():
        # torch 2.11 warns of its own reader, which takes weights from bytes it must not write to.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        try:
            program = torch.export.load(path)
            if device == "cuda":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, device)
            # Without the guards that torch.export guessed from its example: the file was proven
            # without.
            module = program.module(check_guards=False)
        except Exception as error:  # its reader raises whatever it stumbles over
            raise FileError(f"torch {torch.__version__} cannot load {path}: {error}") from error

    def run(*values: Any) -> Any:
        named = dict(zip(card.graph_inputs, values, strict=True))
        for name in {"class_ids", QUERIES} & named.keys():
            # One row of these serves any batch; the archive's signature wants one an image.
            named[name] = named[name].expand(len(values[0]), *named[name].shape[1:])
        return module(*named.values())

    return _torch_graph(run, opening)


def _torch(device: Device, card: Card) -> Any:
    import torch

    if card.is_detector:
        import torchvision  # noqa: F401  # whose operators the file holds
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch finds no CUDA device")
    return torch


def _torch_graph(module: Callable[..., Sequence["torch.Tensor"]], opening: Opening) -> Graph:
    import torch

    def as_tensor(array: Any) -> "torch.Tensor":
        if is_numpy_array(array):
            # torch knows no negative strides, and warns about memory that is read-only.
            array = np.require(array, requirements=("C", "W"))
        return torch.utils.dlpack.from_dlpack(array)

    def run(feeds: Mapping[str, Any]) -> Sequence[Any]:
        image = feeds["image"]
        tensors = [as_tensor(array) for array in feeds.values()]
        with torch.no_grad(), _threads(opening.threads):
            outputs = module(*(tensor.to(opening.device) for tensor in tensors))
        if is_numpy_array(image):  # not by from_dlpack, which would make them read-only
            return [output.numpy(force=True) for output in outputs]
        xp = array_namespace(image)
        return [xp.from_dlpack(output.to(tensors[0].device)) for output in outputs]

    return run


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch runs in so many threads meanwhile; it has one number for the whole process."""
    import torch

    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
