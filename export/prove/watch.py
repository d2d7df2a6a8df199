"""Watching the user's own model while it runs eagerly, for the reference."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from camcore.errors import ExportError

_FUSED = F.scaled_dot_product_attention
_BATCH_NORMS = {F.batch_norm, torch.batch_norm}
_CONVOLUTIONS = {
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    torch.convolution,
}
_SUMS = {
    *(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__),
    *(torch.sub, Tensor.sub, Tensor.__sub__, Tensor.__rsub__, Tensor.__isub__),
}
_SOFTMAXES = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}


class SoundBatchNorms(TorchFunctionMode):
    """While it lasts, gradients come to batch norms in the order of memory that they can read.

    On a CPU, torch 2.15 takes the gradient of a single image for one in channels-first order where
    it is a transposed view, as behind `flatten(2).transpose(1, 2)`, and returns a wrong one.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _BATCH_NORMS and result.requires_grad:
            result.register_hook(lambda gradient: gradient.contiguous())
        return result


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """While it lasts, operators are computed in forms whose gradients PyTorch can differentiate."""
    with sdpa_kernel(SDPBackend.MATH), _PlainHardSigmoids():
        yield


class _PlainHardSigmoids(TorchFunctionMode):
    """PyTorch differentiates its own once, and no more."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


class AttentionWatch(TorchFunctionMode):
    """While it lasts, self-attention of some layers is noted, with a zero added to its weights.

    The weights are those after the softmax, (B, heads, T, T) or (B * heads, T, T). Whatever form
    the model calls attention in, it is computed in the plain one.

    Args:
        model: it is watched, not changed.
        layers: innermost modules that attend, each as often as it does.
        tokens: for each of them, T.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], tokens: Sequence[int]) -> None:
        super().__init__()
        self._model = model
        self._layers = tuple(layers)
        self._tokens = dict(zip(layers, tokens, strict=True))
        self._inside: list[str] = []
        self._handles: list[Any] = []
        self._deltas: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def __enter__(self) -> "AttentionWatch":
        for layer in self._deltas:
            module = self._model.get_submodule(layer)
            self._handles += [
                module.register_forward_pre_hook(
                    lambda *_, layer=layer: self._inside.append(layer)
                ),
                module.register_forward_hook(lambda *_: self._leave()),
            ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _leave(self) -> None:
        self._inside.pop()

    def deltas(self) -> list[Tensor]:
        """The zeros, one for each of the layers; they have the gradients of the weights.

        Raises:
            ExportError: a layer attended more often, or less, than in the traced graph.
        """
        for layer, deltas in self._deltas.items():
            if len(deltas) != self._layers.count(layer):
                raise ExportError(
                    f"{layer or 'the model'} attends {self._layers.count(layer)} times in the "
                    f"traced graph and {len(deltas)} times eagerly, so nothing could be proven: "
                    "it computes attention in a way that cannot be watched. Choose other layers"
                )
        left = {layer: iter(deltas) for layer, deltas in self._deltas.items()}
        return [next(left[layer]) for layer in self._layers]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _FUSED:
            return self._attend(*args, **kwargs)
        if func in _SOFTMAXES:
            return self._perturbed(func(*args, **kwargs))
        if func is F.multi_head_attention_forward:
            # What it calls in its turn does not come by here.
            plain = {"scaled_dot_product_attention": self._attend, "softmax": self._softmax}
            with patch.dict(vars(F), plain):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _softmax(self, x: Tensor, dim: int) -> Tensor:
        return self._perturbed(torch.softmax(x, dim))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        watched = self._is_watched(query.shape[-2], key.shape[-2])
        if is_causal or enable_gqa or not watched:
            options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
            return _FUSED(query, key, value, attn_mask, dropout_p, is_causal, **options)
        scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.where(attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._perturbed(scores.softmax(-1)) @ value

    def _perturbed(self, weights: Tensor) -> Tensor:
        if weights.ndim < 3 or not self._is_watched(*weights.shape[-2:]):
            return weights
        delta = torch.zeros_like(weights, requires_grad=True)
        self._deltas[self._inside[-1]].append(delta)
        return weights + delta

    def _is_watched(self, queries: int, keys: int) -> bool:
        return bool(self._inside) and queries == keys == self._tokens[self._inside[-1]]


class BiasWatch(TorchFunctionMode):
    """While it lasts, what is added to channels is noted, with a zero added to the sum.

    Args:
        image: a leaf (B, C, *S) of the image's history; what does not depend on it is not noted.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._image = image
        self._noted: list[tuple[Tensor, Tensor]] = []

    def reaching(self, scores: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each bias (C,) that scores depend on, in the order of calls, and its zero (B, C, *S)."""
        leaves = _leaves(scores)
        return [(added, zero) for added, zero in self._noted if id(zero) in leaves]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or not self._is_map(result):
            return result
        added = self._added(func, args, kwargs, result.shape[1], result.ndim - 2)
        if added is None or not self._depends(result):
            return result
        zero = torch.zeros_like(result, requires_grad=True)
        self._noted.append((added.detach(), zero))
        return result + zero

    def _added(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], channels: int, rank: int
    ) -> Tensor | None:
        """What a call adds to so many channels, (C,), None where it adds no constant."""
        if func in _CONVOLUTIONS:
            bias: Tensor | None = kwargs.get("bias", args[2] if len(args) > 2 else None)
            return None if bias is None or self._depends(bias) else bias
        space = [1] * rank
        if func in _BATCH_NORMS:
            x, *others = args
            if kwargs.get("training", others[4] if len(others) > 4 else False):
                return None
            made: Tensor = func(x.new_zeros(1, channels, *space), *others, **kwargs)
            return made.flatten()
        if func not in _SUMS:
            return None
        values = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        # Of one image, a pooled map is as large as a constant.
        candidates = [each for each in values if _is_for_each(_unexpanded(each), channels, rank)]
        constant = next((each for each in candidates if not self._depends(each)), None)
        if constant is None:
            return None
        zeros = constant.new_zeros(1, channels, *space)

        def known(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return _unexpanded(value) if value is constant else zeros

        named = {name: known(value) for name, value in kwargs.items()}
        made = func(*map(known, args), **named)
        return made.flatten()

    def _is_map(self, value: Tensor) -> bool:
        """Whether it has a row for each image, or for each frame of each video."""
        batch, _, *size = self._image.shape
        if value.ndim == self._image.ndim:
            return value.shape[0] == batch
        return len(size) == 3 and value.ndim == 4 and value.shape[0] == batch * size[0]

    def _depends(self, value: Tensor) -> bool:
        return id(self._image) in _leaves(value)


def _unexpanded(value: Tensor) -> Tensor:
    """One of those that `expand` shows along an axis without a copy of any."""
    return value[tuple(slice(1) if step == 0 else slice(None) for step in value.stride())]


def _is_for_each(value: Tensor, channels: int, rank: int) -> bool:
    """Whether it is (C, 1, ...) or (1, C, 1, ...), or one number of as many axes."""
    shape = value.shape[-1 - rank :]
    return value.ndim > rank and value.numel() == shape[0] and shape[0] in (1, channels)


def _leaves(value: Tensor) -> set[int]:
    """The ids of all tensors, results of nothing, that a value's history leads back to."""
    pending, seen, leaves = [value.grad_fn], set(), set()
    while pending:
        function = pending.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            leaves.add(id(function.variable))
        pending.extend(before for before, _ in function.next_functions)
    return leaves
