"""Archives of torch.export."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from camcore.export.write.pt2_file import _add_sizes_in_pairs
from tests.export.wide import check_size, save_wide


def test_sums_of_sizes_become_additions() -> None:
    """Archives of torch 2.11 have no place for them."""

    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.new_ones(torch.sym_sum([x.shape[0], y.shape[0], 3, x.shape[0]]))

    free = {0: Dim.DYNAMIC}
    program = torch.export.export(
        Sum(), (torch.ones(4), torch.ones(5)), dynamic_shapes=(free, free)
    )
    graph = program.graph
    before = graph.find_nodes(op="call_function", target=torch.sym_sum)
    _add_sizes_in_pairs(graph)
    assert before
    assert not graph.find_nodes(op="call_function", target=torch.sym_sum)
    given = program.module(check_guards=False)(torch.ones(7), torch.ones(2))
    assert len(given) == 7 + 2 + 3 + 7


def test_each_weight_is_stored_once(tmp_path: Path) -> None:
    check_size(save_wide(tmp_path, ".pt2"))
