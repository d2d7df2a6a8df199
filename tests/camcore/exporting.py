"""A module of kernels as an ONNX file in onnxruntime."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

Run = Callable[[tuple[Tensor, ...]], list[np.ndarray]]


def export(module: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: tuple[Any, ...]) -> Run:
    """What runs the file that was written with the example's sizes, but for the dynamic ones."""
    program = torch.export.export(module.eval(), example, dynamic_shapes=dynamic_shapes)
    onnx_program = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    assert onnx_program is not None
    session = onnxruntime.InferenceSession(
        onnx_program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        outputs: list[np.ndarray] = session.run(None, given)
        return outputs

    return run


def assert_same(module: nn.Module, run: Run, inputs: tuple[Tensor, ...]) -> None:
    """Fail unless the file gives what eager torch gives: shapes, types, values, NaN for NaN."""
    for actual, expected in zip(run(inputs), module(*inputs), strict=True):
        wanted = expected.numpy()
        assert actual.shape == wanted.shape
        assert actual.dtype == wanted.dtype
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=2e-6, equal_nan=True)
