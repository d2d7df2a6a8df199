from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camcore.errors import ExportError, InputError
from camcore.export.trace.graphs import first_line, module_of
from camcore.export.trace.trace import trace
from tests.export.models import Classifier, Recurrent, SmallNet, build, images


class FixedSize(nn.Module):
    """Flattens its features, so the linear layer fixes height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 17, 40), (2, 64, 9)])
def test_equals_the_model_at_other_sizes(small_net: nn.Module, shape: tuple[int, ...]) -> None:
    traced = trace(small_net, torch.zeros(1, 3, 24, 24))
    assert traced.dynamic_size
    assert traced.notes == ()
    image = images(1, *shape)
    torch.testing.assert_close(traced.graph(image), small_net(image))


def test_nothing_works_in_place(small_net: nn.Module) -> None:
    graph = trace(small_net, torch.zeros(1, 3, 24, 24)).graph
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert len(targets) > 10
    assert not [t for t in targets if isinstance(t, torch._ops.OpOverload) and t._schema.is_mutable]


def test_weights_are_shared_and_ask_for_no_gradient(small_net: nn.Module) -> None:
    graph = trace(small_net, torch.zeros(1, 3, 24, 24)).graph
    assert not list(graph.parameters())
    given = dict(small_net.named_parameters())
    for name, buffer in graph.named_buffers():
        if name in given:
            assert buffer.data_ptr() == given.pop(name).data_ptr()
            assert not buffer.requires_grad
    assert not given


def test_nodes_know_their_modules(small_net: nn.Module) -> None:
    graph = trace(small_net, torch.zeros(1, 3, 24, 24)).graph.graph
    modules = {module_of(node) for node in graph.nodes if node.op == "call_function"}
    assert {"stem.0", "block.conv1", "block.relu", "top.0", "fc"} <= modules


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_of_the_example_does_not_matter(small_net: nn.Module, batch: int) -> None:
    graph = trace(small_net, torch.zeros(batch, 3, 24, 24), dynamic_size=False).graph
    for other in (1, 2, 4):
        image = images(2, other, 24, 24)
        torch.testing.assert_close(graph(image), small_net(image))


def assert_fixed(make: Callable[[], nn.Module], size: tuple[int, int], note: str) -> None:
    model = build(make, shape=(3, *size))
    traced = trace(model, torch.zeros(1, 3, *size))
    assert not traced.dynamic_size
    assert note in traced.notes[0]
    image = images(1, 3, *size)
    torch.testing.assert_close(traced.graph(image), model(image))


def test_a_fixed_size_is_found_and_told() -> None:
    assert_fixed(FixedSize, (16, 16), "the model fixes them")


def test_a_free_size_that_cannot_be_had() -> None:
    with pytest.raises(ExportError, match=r"free height and width.*dynamic_size"):
        trace(build(FixedSize), torch.zeros(1, 3, 16, 16), dynamic_size=True)


class SamePadding(nn.Conv2d):
    """A convolution with a stride, padded by TensorFlow's rule."""

    def forward(self, x: Tensor) -> Tensor:
        missing = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[2:]]
        sides = [side for n in reversed(missing) for side in (n // 2, n - n // 2)]
        return super().forward(F.pad(x, sides))


def test_sizes_that_are_too_intricate_are_fixed() -> None:
    def make() -> nn.Module:
        convs = [SamePadding(3 if n == 0 else 4, 4, 3, stride=2) for n in range(5)]
        return Classifier(nn.Sequential(*convs), 4)

    note = "from SamePadding on, follow from the image's in too intricate a way"
    assert_fixed(make, (50, 64), note)
    # No hook is left behind.
    assert not torch.nn.modules.module._global_forward_hooks


class PadsByRemainder(nn.Conv2d):
    """A convolution of three columns, padded so that its stride of two leaves none out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, [1, 0] if x.shape[3] % 2 == 0 else [1, 1]))


def test_a_size_whose_remainder_counts_is_fixed() -> None:
    def make() -> nn.Module:
        return Classifier(nn.Sequential(PadsByRemainder(3, 4, 3, stride=2)), 4)

    assert_fixed(
        make, (24, 24), "the model fixes them: traced for every size, it answers otherwise"
    )
    with pytest.raises(ExportError, match="at 31 x 33"):
        trace(build(make, shape=(3, 24, 24)), torch.zeros(1, 3, 24, 24), dynamic_size=True)


def test_the_steps_of_a_recurrent_layer_are_fixed() -> None:
    assert_fixed(Recurrent, (16, 24), "the model fixes them: reader is recurrent")
    with pytest.raises(ExportError, match=r"reader is recurrent.*dynamic_size"):
        trace(build(Recurrent), torch.zeros(1, 3, 16, 24), dynamic_size=True)


def test_circular_padding_at_other_sizes() -> None:
    model = nn.Sequential(nn.CircularPad2d((3, 1, 0, 2)), nn.ReflectionPad2d(1)).eval()
    graph = trace(model, torch.zeros(1, 3, 8, 10)).graph
    image = images(2, 2, 13, 7)
    torch.testing.assert_close(graph(image), model(image), rtol=0.0, atol=0.0)


def test_a_fixed_size_on_request(small_net: nn.Module) -> None:
    traced = trace(small_net, torch.zeros(1, 3, 24, 24), dynamic_size=False)
    assert not traced.dynamic_size
    assert "on request" in traced.notes[0]


@pytest.mark.parametrize("shape", [(3, 24), (3, 2, 8, 8, 8)])
def test_one_and_three_dimensions(shape: tuple[int, ...]) -> None:
    channels, *size = shape
    conv = nn.Conv1d if len(size) == 1 else nn.Conv3d
    kind = [3] if len(size) == 1 else [3, 3, 3]
    if len(size) == 4:
        size = size[1:]
    model = build(lambda: Classifier(conv(channels, 4, tuple(kind)), 4), shape=(channels, *size))
    graph = trace(model, torch.zeros(1, channels, *size)).graph
    image = torch.randn(3, channels, *[length + 3 for length in size])
    torch.testing.assert_close(graph(image), model(image))


def test_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"training mode \(the model itself, .*model\.eval\(\)"):
        trace(SmallNet().train(), torch.zeros(1, 3, 24, 24))


def test_one_layer_in_training_mode_is_refused_by_name() -> None:
    model = build(SmallNet)
    model.get_submodule("block.norm1").train()
    with pytest.raises(InputError, match=r"training mode \(block\.norm1\)"):
        trace(model, torch.zeros(1, 3, 24, 24))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda model: model.forward, "the model is method, expected a torch.nn.Module"),
        (lambda model: torch.jit.trace(model, torch.zeros(1, 3, 24, 24)), "not scripted"),
        (torch.compile, r"compiled; give the one inside, model\._orig_mod"),
        (lambda model: deepcopy(model).to("meta"), "'.*' is on the meta device"),
    ],
)
def test_what_is_no_plain_module_is_refused(
    make: Callable[[nn.Module], Any], told: str, small_net: nn.Module
) -> None:
    with pytest.raises(InputError, match=told):
        trace(make(small_net), torch.zeros(1, 3, 24, 24))


def test_weights_made_in_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        model = build(SmallNet)
    with pytest.raises(InputError, match=r"'.*weight' was made under.*copy\.deepcopy\(model\)"):
        trace(model, torch.zeros(1, 3, 24, 24))
    trace(deepcopy(model), torch.zeros(1, 3, 24, 24), dynamic_size=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["block.conv2.weight", "block.norm1.running_mean"])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float, name: str) -> None:
    model = build(SmallNet)
    model.state_dict()[name].view(-1)[3] = bad
    with pytest.raises(InputError, match=name):
        trace(model, torch.zeros(1, 3, 24, 24))


@pytest.mark.parametrize(
    "example",
    [torch.zeros(3, 24), torch.zeros(1, 3, 24, 24, dtype=torch.uint8), torch.zeros(0, 3, 24, 24)],
)
def test_an_example_that_is_no_batch_of_images(small_net: nn.Module, example: Tensor) -> None:
    with pytest.raises(InputError, match="expected a batch of images"):
        trace(small_net, example)


def test_an_example_with_too_few_channels(small_net: nn.Module) -> None:
    with pytest.raises(InputError, match=r"the example, of shape \(1, 1, 24, 24\).*3 channels"):
        trace(small_net, torch.zeros(1, 1, 24, 24))


def test_a_model_that_branches_on_values_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    place = r'test_trace.py", line \d+, in forward, return x.mean.*x.sum\(\) > 0'
    with pytest.raises(ExportError, match=rf"decides by values.*{place}.*torch\.where"):
        trace(Branching().eval(), torch.zeros(1, 3, 24, 24))
    assert "def forward" not in capsys.readouterr().err


def test_a_model_that_fixes_its_batch_is_refused() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) + torch.zeros(len(x), 3)

    with pytest.raises(ExportError, match=r"cannot trace.*len\(x\) fixes it"):
        trace(Counting().eval(), torch.zeros(1, 3, 8, 8))


def test_what_a_model_keeps_from_its_first_run_is_its_own() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
            self.table = nn.Parameter(torch.randn(9))
            self.kept: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.kept:
                self.kept["bias"] = self.table[torch.tensor([0, 3, 5, 7])]
            return self.fc(self.conv(x).mean((2, 3)) + self.kept["bias"])  # type: ignore[no-any-return]

    model = build(Keeping)
    model.kept.clear()
    traced = trace(model, torch.zeros(1, 3, 24, 24), dynamic_size=False)
    assert type(model.kept["bias"]) is Tensor
    image = images(1, 3, 24, 24)
    torch.testing.assert_close(traced.graph(image), model(image))


def test_first_line() -> None:
    assert first_line(ValueError("\n what happened\nwhy")) == "what happened"
    assert first_line(ValueError()) == "ValueError"
