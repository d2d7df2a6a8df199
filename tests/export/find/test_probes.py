import torch
from torch import nn

from camcore.export.find.probes import Until, random_inputs, random_like
from camcore.export.trace.trace import trace

MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2)).eval()


def test_a_graph_is_run_as_far_as_a_value() -> None:
    traced = trace(MODEL, torch.zeros(1, 3, 8, 8), dynamic_size=False)
    (relu,) = traced.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
    images = random_inputs(traced.graph, torch.Generator().manual_seed(0), 2)
    (image,) = images
    assert image.shape == (2, 3, 8, 8)
    found = Until(traced.graph, relu).value(image)
    torch.testing.assert_close(found, MODEL[:2](image))


def test_random_values_are_repeatable_and_of_the_type_of_others() -> None:
    def drawn(like: torch.Tensor) -> torch.Tensor:
        return random_like(like, torch.Generator().manual_seed(1), 3)

    floats, integers = torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.int64)
    assert drawn(floats).shape == (3, 4)
    assert torch.equal(drawn(floats), drawn(floats))
    assert drawn(integers).dtype == torch.int64
    assert set(drawn(integers).flatten().tolist()) <= {0, 1}
