import pytest
import torch

from camcore.export.find.turns import Turn


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_all_of_them_are_different_and_can_be_undone(rank: int) -> None:
    turns = Turn.all_of(rank)
    x = torch.arange(2.0 * 3**rank).reshape(2, *[3] * rank)
    upright = [turn.upright(x) for turn in turns]
    assert torch.equal(upright[0], x)
    assert (
        len({tuple(each.flatten().tolist()) for each in upright})
        == len(turns)
        == [2, 8, 48][rank - 1]
    )
    for turn, each in zip(turns, upright, strict=True):
        assert torch.equal(turn.back(each), x)


@pytest.mark.parametrize("turn", Turn.all_of(3))
def test_a_point_is_where_its_value_is(turn: Turn) -> None:
    grid = (2, 3, 4)
    x = torch.arange(24).reshape(grid)
    for number, cell in enumerate(torch.cartesian_prod(*map(torch.arange, grid)).tolist()):
        place, counts = turn.cell(cell, grid)
        upright = turn.upright(x)
        assert upright.shape == tuple(counts)
        assert upright[tuple(place)] == number


def test_words() -> None:
    assert Turn((1, 0)).describe() == "transposed"
    assert Turn((0, 1), (1,)).describe() == "mirrored"
    assert Turn((1, 0), (0,)).describe() == "transposed and mirrored"
