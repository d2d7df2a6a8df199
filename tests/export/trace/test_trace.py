"""A trace is the model: at other sizes, of the same weights, and nothing works in place."""

import pytest
import torch
from torch import Tensor, nn

from camcore.errors import ExportError
from camcore.export.trace.graphs import module_of
from camcore.export.trace.trace import trace
from tests.export.models import Classifier, build, images


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
    assert model.kept == {}  # as it was
    image = images(1, 3, 24, 24)
    torch.testing.assert_close(traced.graph(image), model(image))
