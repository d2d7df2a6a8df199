"""Scripted graphs: loops stay loops, sizes stay free, no device is written down."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from camcore.export import Explained
from camcore.export.trace.graphs import without_assertions
from camcore.export.write.capture import capture
from camcore.export.write.scripting import scriptable
from tests.export.models import build
from tests.export.passing import CASES, OPTIONS

QUIET = ("ignore:.*torch.jit", "ignore:The TorchScript type system")


def scripted(explained: Explained) -> Any:
    program = capture(explained)
    graph: Any = without_assertions(program.module(check_guards=False))
    return torch.jit.script(scriptable(graph, explained.card.inputs))


def looping(method: str, **options: Any) -> Explained:
    case = CASES["skip"]
    return case.explain(build(case.make), method, **options)


def operators(module: Any) -> list[str]:
    return re.findall(r"(?:aten|prim)::\w+", str(module.inlined_graph))


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize(
    "method",
    [
        "ablationcam",
        "iscam",
        pytest.param("reciprocam", marks=pytest.mark.slow),
        pytest.param("rise", marks=pytest.mark.slow),
    ],
)
def test_a_loop_stays_a_loop(method: str) -> None:
    """One step is in the file, however many there are, and its convolutions once."""
    explained = looping(method)
    module = scripted(explained)
    kinds = operators(module)
    assert kinds.count("prim::Loop") == 1
    # The prediction's own four, and those of a step.
    step = {"ablationcam": 1, "reciprocam": 1}.get(method, 4)
    assert kinds.count("aten::conv2d") == 4 + step
    more = {"iscam": {"samples": 40}, "rise": {"n_masks": 400}}.get(method, {"chunk": 1})
    longer = operators(scripted(looping(method, **more)))
    assert longer.count("aten::conv2d") == 4 + step
    assert abs(len(longer) - len(kinds)) < 10  # of constants


# Those that share a body with one of the others if slow.
ALIKE = {"sscam", "iscam", "vit-reciprocam"}


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.slow) if m in ALIKE else m for m in OPTIONS],
)
def test_other_sizes(method: str) -> None:
    name = "tokens" if method == "vit-reciprocam" else "skip"
    case = CASES[name]
    explained = case.explain(build(case.make), method)
    module = scripted(explained)
    for seed, shape in ((1, (1, 24, 24)), (2, (3, 17, 40))):
        inputs, ids = case.inputs(seed, *shape), torch.tensor([[1, 3]])
        with torch.no_grad():
            given, expected = module(*inputs, ids), explained(*inputs, ids)
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings(*QUIET)
def test_inputs_go_by_their_names() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    program = torch.export.export(Sum(), (torch.ones(2), torch.ones(2)))
    graph: Any = program.module(check_guards=False)
    module: Any = torch.jit.script(scriptable(without_assertions(graph), ["left", "right"]))
    assert [each.name for each in module.forward.schema.arguments] == ["self", "left", "right"]
    assert module(right=torch.ones(2), left=torch.zeros(2))[0].tolist() == [1, 1]


@pytest.mark.filterwarnings(*QUIET)
def test_sums_of_several_sizes() -> None:
    """A symbolic sum of three is an operator of its own, which TorchScript does not have."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    sizes = [graph.call_function(torch.ops.aten.sym_size.int, (x, axis)) for axis in range(3)]
    total = graph.call_function(torch.sym_sum, (tuple(sizes),))
    graph.output((graph.call_function(torch.ops.aten.mul.Tensor, (x, total)),))
    module: Any = torch.jit.script(scriptable(fx.GraphModule(nn.Module(), graph)))
    for shape in ((2, 3, 4), (5, 1, 2)):
        (found,) = module(torch.ones(shape))
        assert torch.equal(found, sum(shape) * torch.ones(shape))


@pytest.mark.filterwarnings(*QUIET)
def test_the_graph_that_is_scripted_names_nothing_that_is_gone() -> None:
    """The step of a scan is a module of its own, which the loop takes over."""
    program = capture(looping("scorecam"))
    graph: Any = scriptable(without_assertions(program.module(check_guards=False)))  # type: ignore[arg-type]
    graph.graph.lint()
    names = {name for name, _ in graph.named_children()}
    assert "loop_0" in names
    assert not [name for name in names if name.startswith("scan_combine")]
