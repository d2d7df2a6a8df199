"""The subject: what is traced. The model, with its outputs in a row."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import signature
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, nn

from camcore.card import QUERIES
from camcore.errors import ExportError, UnknownNameError, unknown_name
from camcore.export.trace.state import kept_state
from camcore.export.trace.targets import Target

# Names of the graph that are the explanation's own.
_CONTRACT = {"image", "class_ids", "classes", "saliency_map", QUERIES}

# What the one output of a classifier is called, and what is made of queries.
SCORES = "scores"

# What a tuple or a mapping calls its methods: results have their outputs as fields.
_METHODS = {"count", "index", "get", "items", "keys", "values"}

# The name under which the subject holds the user's model; names of layers are relative to it.
MODEL = "model"


class Subject(nn.Module):
    """From the graph's inputs to `(*outputs, ranking, scores)`.

    `outputs` are the model's own, in a row; `ranking` (B, N) says which classes are the best,
    `scores` (B, N) is what is explained. For a plain classifier all three are one tensor. Where the
    target takes queries, they are the last input, and their scores the last of the outputs.

    Args:
        model: the user's; it is held, not changed.
        target: what of the output is explained.
        output: the name or the index of the explained output; None takes the first.
        frames: the model takes videos (B, T, C, *S), where the subject takes (B, C, T, *S).
    """

    def __init__(
        self,
        model: nn.Module,
        target: Target,
        output: str | int | None = None,
        frames: bool = False,
    ) -> None:
        super().__init__()
        self.add_module(MODEL, model)
        # Not `eval()`, which would change the user's model.
        self.training = False
        self.target = target
        self._output = output
        self.frames = frames

    @property
    def user_model(self) -> nn.Module:
        return self.get_submodule(MODEL)

    @property
    def takes_queries(self) -> bool:
        return self.target.queries is not None

    def ask(self, *inputs: Tensor) -> Any:
        """What the user's model returns; neither its inputs nor its buffers are changed."""
        if self.frames:
            inputs = (inputs[0].transpose(1, 2), *inputs[1:])
        if torch.compiler.is_exporting():
            return self.user_model(*inputs)
        with kept_state(self.user_model):
            return self.user_model(*map(torch.clone, inputs))

    def forward(self, image: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        outputs, ranking, scores = self.answer(image, *others)
        return *outputs.values(), ranking, scores

    def answer(self, *inputs: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The outputs by their names, what the classes are ranked by, and what is explained."""
        if self.target.queries is None:
            returned = self.ask(*inputs)
            return named_outputs(returned), *self.scores_of(returned)
        *own, queries = inputs
        outputs, embedding = self.embed(*own)
        if SCORES in outputs:
            raise ExportError(
                f"an output of the model is called {SCORES!r}, as those of the queries are. Wrap "
                "the model in a module that calls it otherwise"
            )
        scores = self.target.queries(embedding, queries)
        return {**outputs, SCORES: scores}, scores, scores

    def embed(self, *inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The model's outputs by their names, and the embeddings (B, D) among them.

        Raises:
            ExportError: what is explained has other axes.
        """
        returned = self.ask(*inputs)
        outputs = named_outputs(returned)
        embedding = outputs[pick_output(outputs, self._output)]
        shape = tuple(embedding.shape)
        if len(shape) < 2 or any(size != 1 for size in shape[2:]):
            raise ExportError(
                f"the target {self.target.name!r} wants embeddings (B, D), one for each image, and "
                f"the output has the shape {shape}. Choose another output"
            )
        if isinstance(returned, Tensor):
            outputs = {"embedding": embedding}
        return outputs, embedding.flatten(1)

    def explained_output(self, outputs: Mapping[str, Tensor]) -> str | None:
        """The name of the output that is explained, None where the target makes its own of all."""
        if self.target.takes_everything:
            return None
        return SCORES if self.takes_queries else pick_output(outputs, self._output)

    def scores_of(self, returned: Any) -> tuple[Tensor, Tensor]:
        """What the classes are ranked by, and what is explained, both (B, N).

        Raises:
            ExportError: the target makes something else of the model's output.
        """
        explained: Any = returned
        if not self.target.takes_everything:
            outputs = named_outputs(returned)
            explained = _with_classes(outputs[pick_output(outputs, self._output)])
        ranking: Any = self.target.scores(explained)
        if not isinstance(ranking, Tensor):
            raise ExportError(
                f"the target {self.target.name!r} makes a {type(ranking).__name__} of the model's "
                "output, expected a tensor of scores (B, N) or (B,)"
            )
        ranking = _with_classes(ranking)
        if ranking.ndim != 2:
            shapes = {name: tuple(value.shape) for name, value in named_outputs(returned).items()}
            raise ExportError(
                f"the target {self.target.name!r} makes a tensor of rank {ranking.ndim} of the "
                f"model's outputs {shapes}, expected scores (B, N) or (B,). Choose an output or a "
                "target that fits; for a segmentation model, target='segmentation'; a loss wants "
                "reduction='none'"
            )
        return ranking, self.target.explained(ranking)


def _with_classes(scores: Tensor) -> Tensor:
    """One score for each image, (B,), as those of one class, (B, 1)."""
    return scores[:, None] if scores.ndim == 1 else scores


def named_outputs(returned: Any) -> dict[str, Tensor]:
    """The tensors that a model returned, in order, with names: a single one is called `scores`.

    Dictionaries, named tuples and data classes keep their names, other sequences count: `output_0`,
    `output_1`. Names that a field cannot have (`class`, `a.b`, `items`) are changed: to
    `output_class`, `a_b`, `output_items`.

    Raises:
        ExportError: something in it is no tensor, or there is none.
    """
    if isinstance(returned, Tensor):
        return {SCORES: returned}
    flat = _flatten("", returned)
    found = {_as_name(name): value for name, value in flat}
    if not found:
        raise ExportError("the model returns no tensor, so there is nothing to explain")
    if len(found) < len(flat):
        raise ExportError(
            "outputs of the model cannot be told apart by name: "
            f"{[name for name, _ in flat]} become {[_as_name(name) for name, _ in flat]}. Wrap the "
            "model in a module that calls them otherwise"
        )
    taken = _CONTRACT & set(found)
    if taken:
        raise ExportError(
            f"the model's own outputs are called {sorted(taken)}, as the explanation's are. Wrap "
            "the model in a module that calls them otherwise"
        )
    return found


def _flatten(name: str, value: Any) -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)]
    if value is None:
        return []
    items: Sequence[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = list(value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        items = [(f"{'' if name else 'output_'}{index}", part) for index, part in enumerate(value)]
    else:
        raise ExportError(
            f"the model returns a {type(value).__name__}, expected tensors, alone or in tuples, "
            "lists and dictionaries. Wrap the model in a module that returns those"
        )
    prefix = f"{name}_" if name else ""
    return [pair for key, part in items for pair in _flatten(f"{prefix}{key}", part)]


def _as_name(name: str) -> str:
    """The name with nothing in it that a field of a record may not have."""
    plain = re.sub(r"\W", "_", name).lstrip("_")
    fit = plain.isidentifier() and not iskeyword(plain) and plain not in _METHODS
    return plain if fit else f"output_{plain}"


def name_inputs(model: nn.Module, count: int, outputs: Iterable[str]) -> tuple[str, ...]:
    """Names for so many inputs behind the image: those of the parameters of the model's `forward`.

    An input is called `input_1`, `input_2` by its place where there is no parameter of its own
    (`*args`), or one whose name is the explanation's or an output's.
    """
    taken = _CONTRACT | set(outputs)
    parameters = signature(model.forward).parameters.values()
    own = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names: list[str] = []
    for place in range(1, count + 1):
        name = own[place] if place < len(own) else ""
        if not name or name in taken:
            name = f"input_{place}"
        while name in taken or name in names or (name in own and own.index(name) != place):
            name += "_"
        names.append(name)
    return tuple(names)


def pick_output(outputs: Mapping[str, Tensor], output: str | int | None) -> str:
    """The name of the explained output.

    Raises:
        UnknownNameError: no output of that name or index.
    """
    names = list(outputs)
    if output is None:
        return names[0]
    if isinstance(output, str):
        if output not in outputs:
            raise unknown_name("output", output, names)
        return output
    if not -len(names) <= output < len(names):
        raise UnknownNameError(
            f"the model has {len(names)} outputs ({', '.join(names)}), no output number {output}"
        )
    return names[output]
