"""The module: a graph as `nn.Module`s, one for each node, inside those of their scopes."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any, NamedTuple

from torch import Tensor, nn

from camcore.adapters.sources.onnx.layers import Weights, torch_layer
from camcore.adapters.sources.onnx.node import Node
from camcore.adapters.sources.onnx.operators.table import wants_number
from camcore.adapters.sources.onnx.tidy import run_node
from camcore.adapters.sources.onnx.values import Value, as_array, as_tensor


@dataclass(frozen=True)
class Rows:
    """A shape made for one image, as it is for any number of them.

    It is the input at position `slot`. Its size at `place` grows as that of the operator's first
    input at `axis` does, which is `of_one` for one image.
    """

    slot: int
    shape: tuple[int, ...]
    place: int
    axis: int
    of_one: int

    def shape_for(self, x: Tensor) -> Value:
        rows = x.shape[self.axis] * self.shape[self.place] // self.of_one
        return as_array([*self.shape[: self.place], rows, *self.shape[self.place + 1 :]])


class _Slot(NamedTuple):
    """An input of an operator: a `value` that comes when it runs, a `weight` by the name it has in
    the module, a `number` as it is, or `none`.
    """

    kind: str
    content: Any = None


class Operator(nn.Module):
    """A node, with those of its inputs that are constant.

    `rows` and `repeated` say what is different for a batch where the file is made for one image:
    a shape, and the axis along which constants are put beside images.
    """

    def __init__(self, node: Node, constants: Mapping[str, Value], weights: Weights) -> None:
        super().__init__()
        self.node = node
        self.rows: Rows | None = None
        self.repeated: int | None = None
        self._slots = [
            self._slot(position, name, constants, weights)
            for position, name in enumerate(node.inputs)
        ]

    def _slot(
        self, position: int, name: str, constants: Mapping[str, Value], weights: Weights
    ) -> _Slot:
        if not name:
            return _Slot("none")
        if name not in constants:
            return _Slot("value")
        value = constants[name]
        # Rows of integers may be parts of a shape, which a tensor would hide.
        sizes = value.dtype.kind != "f" and value.ndim <= 1
        if sizes or value.size <= 1 or wants_number(self.node.op, position):
            return _Slot("number", value)
        own = f"input_{position}"
        self.register_parameter(own, weights.get(name))
        return _Slot("weight", own)

    def number(self, position: int) -> Value | None:
        """The input at that position where it is numbers of the file, else None."""
        slot = self._slots[position] if 0 <= position < len(self._slots) else _Slot("none")
        return slot.content if slot.kind == "number" else None

    def forward(self, *values: Value) -> Any:
        given = iter(values)
        inputs = [self._input(slot, given) for slot in self._slots]
        if self.rows is not None:
            inputs[self.rows.slot] = self.rows.shape_for(inputs[0])
        if self.repeated is not None:
            inputs = self._side_by_side(inputs, self.repeated)
        results = run_node(self.node, inputs)
        return results if len(results) > 1 else results[0]

    def _input(self, slot: _Slot, given: Iterator[Value]) -> Value:
        if slot.kind == "value":
            return next(given)
        return getattr(self, slot.content) if slot.kind == "weight" else slot.content

    def _side_by_side(self, inputs: Sequence[Value], axis: int) -> list[Value]:
        """Inputs of which the constant ones are repeated for each image."""
        kinds = [slot.kind for slot in self._slots]
        like = inputs[kinds.index("value")]
        found = []
        for kind, value in zip(kinds, inputs, strict=True):
            if kind != "value":
                value = as_tensor(value, like)
                sizes = [-1] * value.ndim
                sizes[axis] = like.shape[axis]
                value = value.expand(sizes)
            found.append(value)
        return found

    def extra_repr(self) -> str:
        return self.node.describe()


class Step(NamedTuple):
    """A call of a module by its name, and the names of what it takes and gives."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Scope(nn.Module):
    """A row of nodes that came from one module; it takes and returns values by their names."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self._takes, self._gives = tuple(inputs), tuple(outputs)
        self._steps: list[Step] = []

    def forward(self, *values: Value) -> Any:
        results = self.run(*values)
        return results if len(results) > 1 else results[0]

    def run(self, *values: Value) -> tuple[Value, ...]:
        known = dict(zip(self._takes, values, strict=True))
        for step in self._steps:
            taken = [known[name] for name in step.inputs]
            result = self.get_submodule(step.module)(*taken)
            results = result if isinstance(result, tuple) else (result,)
            known.update(zip(step.outputs, results, strict=False))
        return tuple(known[name] for name in self._gives)

    def add(self, name: str, module: nn.Module, taken: Sequence[str], given: Sequence[str]) -> str:
        """Append a module, by its dotted name as far as that is free; returns the name it got."""
        *outer, last = [_as_name(part) for part in name.split(".")]
        owner: nn.Module = self
        for place, part in enumerate(outer):
            if part not in owner._modules:
                # What a model has of its own is no module.
                outer[place] = part = f"{part}_" if hasattr(owner, part) else part
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        free = (last if n == 1 else f"{last}_{n}" for n in count(1))
        own = next(each for each in free if not hasattr(owner, each))
        owner.add_module(own, module)
        full = ".".join([*outer, own])
        self._steps.append(Step(full, tuple(taken), tuple(given)))
        return full


def _as_name(part: str) -> str:
    """A name that a module may have, none of what `nn.Module` calls its own."""
    plain = re.sub(r"\W", "_", part).strip("_") or "node"
    return f"{plain}_" if hasattr(nn.Module, plain) or plain == "training" else plain


@dataclass(frozen=True)
class Uses:
    """Of the values of a graph, which nodes take them, by their places; the end takes outputs."""

    by: Mapping[str, frozenset[int]]

    @classmethod
    def of(cls, nodes: Sequence[Node], outputs: Sequence[str]) -> "Uses":
        found: dict[str, set[int]] = {name: {len(nodes)} for name in outputs}
        for place, node in enumerate(nodes):
            for name in node.inputs:
                found.setdefault(name, set()).add(place)
        return cls({name: frozenset(places) for name, places in found.items()})

    def outside(self, name: str, first: int, last: int) -> bool:
        """Whether anybody takes a value beside the nodes of these places."""
        return any(not first <= place <= last for place in self.by.get(name, ()))


def fill(scope: Scope, nodes: Sequence[Node], constants: Mapping[str, Value], uses: Uses) -> None:
    """Put nodes into a scope, those of scopes inside it into modules of their own.

    Where a scope comes more than once, its last run has its plain name: it is the last call of a
    module that is explained.
    """
    _fill(scope, list(enumerate(nodes)), "", 0, constants, Weights(constants), uses)


def _fill(
    scope: Scope,
    nodes: Sequence[tuple[int, Node]],
    prefix: str,
    depth: int,
    constants: Mapping[str, Value],
    weights: Weights,
    uses: Uses,
) -> None:
    runs = [
        (name, list(run)) for name, run in groupby(nodes, lambda each: _scope_at(each[1], depth))
    ]
    left = Counter(name for name, _ in runs)
    for name, run in runs:
        if name is None:
            for _, node in run:
                own = node.name.rpartition("/")[2].replace(".", "_")
                _add_node(scope, own, node, constants, weights)
            continue
        left[name] -= 1
        relative = name.removeprefix(f"{prefix}.") if prefix else name
        plain = relative if not left[name] else f"{relative}_call{_earlier(runs, name, run)}"
        (first, node), (last, _) = run[0], run[-1]
        if first == last and len(node.scopes) == depth + 1:
            _add_node(scope, plain, node, constants, weights)
            continue
        made = {output for _, each in run for output in each.outputs}
        taken = dict.fromkeys(
            value
            for _, each in run
            for value in each.inputs
            if value and value not in made and value not in constants
        )
        given = [
            value for _, each in run for value in each.outputs if uses.outside(value, first, last)
        ]
        inner = Scope(list(taken), given)
        _fill(inner, run, name, depth + 1, constants, weights, uses)
        scope.add(plain, inner, list(taken), given)


def _scope_at(node: Node, depth: int) -> str | None:
    return node.scopes[depth] if len(node.scopes) > depth else None


def _earlier(runs: Sequence[tuple[str | None, Any]], name: str, run: Any) -> int:
    """The number of a run among those of its name, from one on."""
    return 1 + [each for of, each in runs if of == name].index(run)


def _add_node(
    scope: Scope, name: str, node: Node, constants: Mapping[str, Value], weights: Weights
) -> None:
    taken = [value for value in node.inputs if value and value not in constants]
    layer = torch_layer(node, constants, weights) or _kind(node.op)(node, constants, weights)
    scope.add(name, layer, taken, node.outputs)


def _kind(op: str) -> type[Operator]:
    """A class of the operator's name, as which a list of layers shows it."""
    return type(op, (Operator,), {})


def leaves(model: nn.Module) -> dict[str, str]:
    """For each value of the graph, the name of the module of the node that makes it."""
    found: dict[str, str] = {}
    for name, scope in model.named_modules():
        if isinstance(scope, Scope):
            for step in scope._steps:
                if not isinstance(scope.get_submodule(step.module), Scope):
                    full = f"{name}.{step.module}" if name else step.module
                    found |= {output: full for output in step.outputs if output}
    return found
