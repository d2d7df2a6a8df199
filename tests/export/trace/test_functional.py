"""Operator by operator, an exported model becomes the graph that PyTorch makes of it as a whole."""

from collections.abc import Callable
from operator import floordiv, mul
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from camcore.export.trace.functional import decomposed
from tests.export.models import Borders, Branches, SmallNet, Transformer, build, images

aten = torch.ops.aten


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.norm(F.pad(x, (0, 0, 0, 0, 0, 1))))


def of_function(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Function(function)


def twice(x: Tensor) -> Tensor:
    y = x.sigmoid()
    z = y * 3
    y.relu_().add_(z, alpha=2)
    return y.mul_(x) + z + y


SHORT: dict[str, Callable[[], nn.Module]] = {
    "skip": SmallNet,
    "transformer": Transformer,
    "branches": Branches,
    "borders": Borders,
    "written twice, read between": of_function(twice),
    "dropout that does nothing": of_function(
        lambda x: F.dropout(F.dropout(x.tanh(), 0.5, False).neg(), 0.5, False, inplace=True) + x
    ),
    "shapes": of_function(
        lambda x: x.transpose(1, 2).reshape(x.shape[0], -1).contiguous().unflatten(1, (-1, 4)).mT
    ),
    "the last is written": of_function(lambda x: x.exp().relu_()),
    "returned and written": of_function(lambda x: [y := x.exp(), y.relu_()][0]),  # type: ignore[arg-type,return-value]
}


def write_a_view(x: Tensor) -> Tensor:
    y = x.tanh()
    y[:, 1:].mul_(2)
    return y


def write_what_a_view_shows(x: Tensor) -> Tensor:
    y = x.tanh()
    seen = y.flatten(1)
    y.mul_(2)
    return seen + 1


def write_what_dropout_gives_back(x: Tensor) -> Tensor:
    y = x.tanh()
    seen = F.dropout(y, 0.5, False)
    y.mul_(2)
    return seen + 1


def write_another_type(x: Tensor) -> Tensor:
    return (x > 0).float().add_(x.double()).mul_(2)


def write_integers(x: Tensor) -> Tensor:
    return (x * 3).long().mul_(2).add_(x.long()) * 0.5


LONG: dict[str, Callable[[], nn.Module]] = {
    "a view is written": of_function(write_a_view),
    "a view shows it": of_function(write_what_a_view_shows),
    "dropout shows it": of_function(write_what_dropout_gives_back),
    "another type": of_function(write_another_type),
    "integers": of_function(write_integers),
}


def exported(make: Callable[[], nn.Module]) -> tuple[nn.Module, ExportedProgram]:
    model = build(make)
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    free = {0: Dim.DYNAMIC} if make is Transformer else free
    with torch.no_grad():
        return model, torch.export.export(model, (images(0, 5, 24, 32),), dynamic_shapes=(free,))


def described(graph: fx.Graph) -> list[Any]:
    """What each node computes, of which others, and in which module; but for sizes."""
    of_sizes = {aten.sym_size.int, mul, floordiv}
    nodes = [node for node in graph.nodes if node.target not in of_sizes]
    number = {node: n for n, node in enumerate(nodes)}
    found = []
    for node in nodes:
        value = node.meta.get("val")
        told = (*map(str, value.shape), value.dtype) if isinstance(value, Tensor) else None
        stack = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
        target = node.target if node.op == "call_function" else node.op
        inputs = [number[value] for value in node.all_input_nodes if value in number]
        found.append((target, told, stack[-1:], inputs))
    return found


@pytest.mark.parametrize("name", SHORT)
def test_the_graph_is_that_of_pytorch(name: str) -> None:
    model, program = exported(SHORT[name])
    whole = program.run_decompositions({}).module(check_guards=False)
    with patch.object(ExportedProgram, "run_decompositions", side_effect=AssertionError):
        short: Any = decomposed(program, {}).module(check_guards=False)
    assert described(short.graph) == described(whole.graph)
    assert not [
        n
        for n in short.graph.nodes
        if getattr(n.target, "_schema", None) and n.target._schema.is_mutable
    ]
    for batch, *size in [(1, 24, 32), (7, 24, 32)]:
        x = images(1, batch, *size)
        with torch.no_grad():
            torch.testing.assert_close(short(x.clone()), model(x.clone()))


@pytest.mark.parametrize("name", LONG)
def test_what_is_seen_elsewhere_is_left_to_pytorch(name: str) -> None:
    model, program = exported(LONG[name])
    before = [(node.target, node.args) for node in program.graph.nodes]
    plain, asked = ExportedProgram.run_decompositions, []

    def listen(given: ExportedProgram, rules: Any) -> ExportedProgram:
        asked.append(rules)
        assert [(node.target, node.args) for node in given.graph.nodes] == before
        return plain(given, rules)

    with patch.object(ExportedProgram, "run_decompositions", listen):
        graph: Any = decomposed(program, {}).module(check_guards=False)
    assert len(asked) == 1
    x = images(1, 7, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(graph(x.clone()), model(x.clone()))


def test_a_written_input_is_left_to_pytorch() -> None:
    _, program = exported(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1)))
    with patch.object(ExportedProgram, "run_decompositions", return_value=program) as asked:
        decomposed(program, {})
    asked.assert_called_once_with({})


def test_operators_with_a_rule() -> None:
    """They are PyTorch's to take apart, with all that goes with it."""
    _, program = exported(of_function(lambda x: x.exp().relu_()))
    rules = {aten.exp.default: lambda x: torch.cosh(x) + torch.sinh(x)}
    graph: Any = decomposed(program, rules).module(check_guards=False)
    targets = {node.target for node in graph.graph.nodes}
    assert aten.cosh.default in targets
    assert aten.exp.default not in targets


def test_batches_that_batch_norm_measures_itself() -> None:
    model, program = exported(of_function(lambda x: F.batch_norm(x, None, None, training=True)))
    x = images(1, 7, 24, 32)
    graph: Any = decomposed(program, {}).module(check_guards=False)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x))
