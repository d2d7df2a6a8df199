"""Loops that are a graph's own while they are traced, and Python's eagerly.

The one place where a kernel's course depends on values. `torch.export` takes a loop as an operator
with graphs for its condition and its step, which becomes ONNX's Loop and a loop of TorchScript's.
"""

from collections.abc import Callable

from array_api_compat import is_torch_namespace

from camcore._arrays import Array, namespace

# From what is repeated and what is given to what is repeated, and whether it stands still.
Step = Callable[..., tuple[Array, Array]]


def repeat(step: Callable[..., Array], count: int, value: Array, /, *given: Array) -> Array:
    """What a step makes of a value, so many times.

    Args:
        step: takes the value and `given`, arrays that it only reads, and returns a new array of the
            value's shape and type. In a graph it sees nothing but its arguments.
    """
    xp = namespace(value)
    if is_torch_namespace(xp) and xp.compiler.is_exporting():
        found, _ = xp.ops.higher_order.while_loop(
            lambda value, done, *given: done < count,
            lambda value, done, *given: (step(value, *given), done + 1),
            (value, xp.zeros((), dtype=xp.int64, device=value.device)),
            given,
        )
        return found
    for _ in range(count):
        value = step(value, *given)
    return value


def repeat_until_still(step: Step, value: Array, /, *given: Array) -> Array:
    """What a step makes of a value, again and again, until it says that nothing has changed.

    Args:
        step: takes the value and `given`, arrays that it only reads, and returns a new array of
            the value's shape and type, and a boolean () that says whether the two are the same. In
            a graph it sees nothing but its arguments, and must not return one of them.
    """
    xp = namespace(value)
    if is_torch_namespace(xp) and xp.compiler.is_exporting():
        # By the operator itself: its public form would have TorchDynamo read the step's code.
        found, _ = xp.ops.higher_order.while_loop(
            lambda value, still, *given: ~still,
            lambda value, still, *given: step(value, *given),
            (value, xp.zeros((), dtype=xp.bool, device=value.device)),
            given,
        )
        return found
    still = False
    while not still:
        value, unchanged = step(value, *given)
        still = bool(unchanged)
    return value
