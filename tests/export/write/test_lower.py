"""Operators without a translation become others; a program computes the same, and traces nothing
else anew.
"""

from collections.abc import Callable
from copy import deepcopy
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from camcore.export import explain
from camcore.export.write.capture import capture
from camcore.export.write.lower import _is_composite_view, decompose_by_node
from tests.export.models import EXAMPLE, build, images
from tests.export.passing import CASES

aten = torch.ops.aten


@pytest.fixture(scope="module")
def rules() -> Any:
    """What torch.onnx asks programs to decompose themselves by."""
    program, asked = torch.export.export(Function(torch.relu), (torch.ones(2),)), []

    def listen(rules: Any) -> ExportedProgram:
        asked.append(rules)
        return program

    program.run_decompositions = listen  # type: ignore[method-assign]
    torch.onnx.export(program, dynamo=True, verbose=False, opset_version=18)
    (found,) = asked
    return found


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "a rule": lambda x: F.smooth_l1_loss(x, x.cos(), reduction="none"),
    "a view of composites": lambda x: x.flatten(2).unflatten(1, (2, 2)) + 1,
    "both": lambda x: F.pixel_shuffle(x, 2).std((2, 3)).tensor_split(1, dim=1)[0],
    "nothing": lambda x: F.conv2d(x, torch.ones(3, 4, 1, 1)).relu(),
}


def exported(name: str) -> ExportedProgram:
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    module = Function(FUNCTIONS[name])
    return torch.export.export(module, (torch.ones(5, 4, 6, 8),), dynamic_shapes=(free,))


def operators(program: ExportedProgram) -> set[Any]:
    """Those of the program, and of the loops in it."""
    graphs = [
        part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)
    ]
    return {
        node.target for part in graphs for node in part.graph.nodes if node.op == "call_function"
    }


def left_over(program: ExportedProgram, rules: Any) -> set[Any]:
    return {each for each in operators(program) if each in rules or _is_composite_view(each)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_left_that_wants_decomposing(name: str, rules: Any) -> None:
    program = exported(name)
    wanted = left_over(program, rules)
    assert bool(wanted) == (name != "nothing")
    before = operators(program)
    decompose_by_node(program)
    assert program.run_decompositions(rules) is program
    assert not left_over(program, rules)
    assert before - wanted - {getitem} <= operators(program)
    for shape in ((5, 4, 6, 8), (2, 4, 10, 4)):
        x = images(1, shape[0], *shape[2:], channels=4)
        found = program.module(check_guards=False)(x)
        torch.testing.assert_close(found, FUNCTIONS[name](x))


@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_an_explained_module(method: str, rules: Any) -> None:
    """The same answers as from PyTorch's own decomposition, at other sizes; and loops stay."""
    case = CASES["skip"]
    model = build(case.make)
    how = {} if method == "gradcam" else {"chunk": 5}
    explained = explain(model, EXAMPLE, method=method, layer=case.place.layer, **how)
    program = capture(explained)
    before = deepcopy(program.module(check_guards=False))
    decompose_by_node(program)
    program.run_decompositions(rules)
    assert not left_over(program, rules)
    loops = [target for target in operators(program) if "scan" in str(target)]
    assert len(loops) == (method == "scorecam")
    image, ids = images(1, 3, 20, 28), torch.tensor([[1, 3]]).expand(3, -1)
    for one, other in zip(
        program.module(check_guards=False)(image, ids), before(image, ids), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
