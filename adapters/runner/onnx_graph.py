"""ONNX graph: a file run by onnxruntime, without PyTorch."""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import redirect_stdout
from typing import Any, cast

import numpy as np
from array_api_compat import array_namespace, is_numpy_array, to_device

from camcore.adapters.files import reading
from camcore.adapters.onnx_content import check_self_contained
from camcore.adapters.runner.inputs import CUDA
from camcore.adapters.runner.opening import Graph, Opening
from camcore.card import Card
from camcore.errors import FileError, InputError, unknown_name

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"

_THREADS = "intra_op_num_threads"


def open_onnx(opening: Opening, card: Card) -> Graph:
    """An ONNX file as a function of its inputs."""
    import onnxruntime

    with reading(opening.path), opening.path.open("rb") as file:
        check_self_contained(opening.path, file)
    providers = _providers(opening)
    options = _session_options(opening)
    try:
        # enable_fallback: on a CUDA failure onnxruntime would go on, slowly, on the CPU.
        session = onnxruntime.InferenceSession(opening.path, options, providers, enable_fallback=0)
        ports = _port_names(session)
    except Exception as error:  # onnxruntime's exceptions derive from nothing narrower
        raise FileError(
            f"onnxruntime {onnxruntime.__version__} cannot load {opening.path}: {error}"
        ) from error
    started = session.get_providers()
    for provider in map(_provider_name, providers):
        if provider not in started:
            raise InputError(_not_started(provider))
    _check_names(ports, card, opening)
    names = list(card.graph_outputs)

    def run(feeds: Mapping[str, Any]) -> Sequence[Any]:
        if is_numpy_array(feeds["image"]):
            dense = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
            return cast(Sequence[Any], _stoppable(lambda how: session.run(names, dense, how)))
        return _run_bound(session, names, feeds)

    return run


def _providers(opening: Opening) -> list[Any]:
    """What onnxruntime is asked to run on, all of which it has.

    Raises:
        InputError: it was built without one, or they do not fit the device.
    """
    import onnxruntime

    on_cuda = opening.device == "cuda"
    providers = [_CUDA, _CPU] if on_cuda else [_CPU]
    available = onnxruntime.get_available_providers()
    if opening.providers is not None:
        providers = _as_asked(opening.providers)
    names = list(map(_provider_name, providers))
    if on_cuda and not {_CUDA, _TENSORRT} & set(names):
        raise InputError(f"device is 'cuda', and providers are {names}: none of them is CUDA's")
    for name in names:
        if name == _CUDA and name not in available:
            raise InputError(
                "device is 'cuda', but this onnxruntime is built for the CPU: pip uninstall "
                "onnxruntime, then pip install 'camcore[gpu]' (the two builds exclude each other)"
            )
        if name not in (_CPU, *available):
            raise unknown_name("provider", name, available, "Others need another onnxruntime.")
    if {_CUDA, _TENSORRT} & set(names):
        with redirect_stdout(sys.stderr):  # it prints what it cannot find
            onnxruntime.preload_dlls()
    return providers


def _as_asked(providers: Any) -> list[Any]:
    """The providers that were asked for, if they have the form that onnxruntime wants."""
    expected = "expected a list of names, or of names with options, as ['CPUExecutionProvider']"
    if isinstance(providers, str) or not isinstance(providers, Sequence) or not providers:
        raise InputError(f"providers is {providers!r}; {expected}")
    for provider in providers:
        named = isinstance(provider, tuple) and len(provider) == 2
        name, options = provider if named else (provider, {})
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise InputError(f"providers holds {provider!r}; {expected}")
    return list(providers)


def _provider_name(provider: Any) -> str:
    return provider if isinstance(provider, str) else str(provider[0])


def _not_started(provider: str) -> str:
    if provider != _CUDA:
        return f"onnxruntime could not start {provider}"
    return (
        "device is 'cuda', but onnxruntime could not start CUDA: it needs a driver, CUDA and "
        "cuDNN of the versions it was built for "
        "(https://onnxruntime.ai/docs/install/#cuda-and-cudnn)"
    )


def _session_options(opening: Opening) -> Any:
    """onnxruntime's own object, as it was given or made of names and values."""
    import onnxruntime

    given, threads = opening.session_options, opening.threads
    whole = isinstance(given, onnxruntime.SessionOptions)
    if threads is not None and (whole or (isinstance(given, Mapping) and _THREADS in given)):
        raise InputError(f"threads is {threads}, and session_options say it too: give one of both")
    if whole:
        return given
    if given is not None and not isinstance(given, Mapping):
        raise InputError(
            f"session_options is {type(given).__name__}; expected an onnxruntime.SessionOptions, "
            "or names and values, as {'enable_cpu_mem_arena': False}"
        )
    options = onnxruntime.SessionOptions()
    # Errors only: onnxruntime warns where `class_ids` has a default, and so is optional.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    known = [name for name in dir(options) if not _is_private_or_method(options, name)]
    for name, value in (given or {}).items():
        try:
            if "." in str(name):
                options.add_session_config_entry(name, value)
            elif name in known:
                setattr(options, name, value)
            else:
                raise unknown_name("session option", str(name), known)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"session_options: {name} cannot be {value!r}: {error}") from error
    return options


def _is_private_or_method(options: Any, name: str) -> bool:
    return name.startswith("_") or callable(getattr(options, name))


def _port_names(session: Any) -> tuple[set[str], set[str]]:
    """The names of the graph's inputs and of its outputs; a graph may have some that are no text,
    which onnxruntime stumbles over here.
    """
    given = [*session.get_inputs(), *session.get_overridable_initializers()]
    return {port.name for port in given}, {port.name for port in session.get_outputs()}


def _check_names(ports: tuple[set[str], set[str]], card: Card, opening: Opening) -> None:
    """Raises a `FileError` where the card names other inputs and outputs than the graph has."""
    named = (card.graph_inputs, card.graph_outputs)
    for kind, has, names in zip(("inputs", "outputs"), ports, named, strict=True):
        if has != set(names):
            raise FileError(
                f"{opening.path}: its card names the {kind} {', '.join(names)}, its graph has "
                f"{', '.join(sorted(has))}; export the model again"
            )


def _run_bound(session: Any, names: list[str], feeds: Mapping[str, Any]) -> Sequence[Any]:
    """Run on another library's memory, and hand out results as arrays of that library, uncopied."""
    image = feeds["image"]
    xp = array_namespace(image)
    device_type, device_id = image.__dlpack_device__()
    binding = session.io_binding()
    # Held until the run is over: a value of a NumPy array is but a view of it.
    values = {name: _ort_value(array, xp) for name, array in feeds.items()}
    for name, value in values.items():
        # Not bind_cpu_input: it does not know inputs that have a default.
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name, "cuda" if device_type == CUDA else "cpu", device_id)
    # The caller's library and onnxruntime work on streams of their own: wait for both.
    binding.synchronize_inputs()
    _stoppable(lambda how: session.run_with_iobinding(binding, how))
    binding.synchronize_outputs()
    return [xp.from_dlpack(value) for value in binding.get_outputs()]


def _ort_value(array: Any, xp: Any) -> Any:
    from onnxruntime import OrtValue

    if is_numpy_array(array):  # class_ids, steps and the first state
        return OrtValue.ortvalue_from_numpy(array)
    if xp.isdtype(array.dtype, "bool"):  # which onnxruntime takes by DLPack from 1.32 on
        return OrtValue.ortvalue_from_numpy(np.from_dlpack(to_device(array, "cpu")).copy())
    return OrtValue.from_dlpack(_dense(array, xp))


def _stoppable(run: Callable[[Any], Any]) -> Any:
    """What a run of onnxruntime gives, told to stop when Ctrl-C is pressed.

    Python learns of it between two of its own steps, in the main thread: a run of many passes is
    one step of minutes, so it goes to another thread, and this one waits.
    """
    import onnxruntime

    how = onnxruntime.RunOptions()
    if threading.current_thread() is not threading.main_thread():
        return run(how)
    found: Future[Any] = Future()
    over = threading.Event()

    def work() -> None:
        try:
            found.set_result(run(how))
        except Exception as error:  # onnxruntime's exceptions derive from nothing narrower
            found.set_exception(error)
        finally:
            over.set()

    worker = threading.Thread(target=work, name="camcore-run")
    worker.start()
    try:
        # Not by `join`, which takes a thread for ended when Ctrl-C ends its wait. With a limit, for
        # not every system wakes up a wait that has none.
        while not over.wait(0.1):
            pass
    except KeyboardInterrupt:
        how.terminate = True
        over.wait()
        raise
    finally:
        worker.join()
    return found.result()


def _dense(array: Any, xp: Any) -> Any:
    """The array with its values in order in memory; onnxruntime takes no strides."""
    return xp.reshape(xp.reshape(array, (-1,)), array.shape)
