"""Videos of a thing that moves, and a model that looks at them frame by frame."""

import torch
from torch import Tensor, nn

SIDE, THING = 48, 8


class PerFrame(nn.Module):
    """Class 0 is red, class 1 blue; frames are folded into the batch, and told apart by `over`.

    The frames become one by their mean, by attention that knows no order, or by an LSTM.
    """

    def __init__(self, over: str = "mean", major: bool = False, flips: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
        self.over, self.major, self.flips = over, major, flips
        self.attend = nn.Linear(4, 1)
        self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def knowing_colours(self) -> "PerFrame":
        """Red is channel 0 and class 0, blue 1."""
        with torch.no_grad():
            for weights in (self.features[0].weight, self.features[0].bias, self.head.bias):
                weights.zero_()
            self.features[0].weight[0, 0, 1, 1] = self.features[0].weight[1, 2, 1, 1] = 1
            self.head.weight.copy_(torch.eye(2, 4))
        return self

    def forward(self, video: Tensor) -> Tensor:
        if self.flips:
            video = video.transpose(1, 2)
        batch, frames = video.shape[:2]
        if self.major:
            rows = self.features(video.transpose(0, 1).flatten(0, 1)).mean((2, 3))
            found = rows.unflatten(0, (frames, batch)).transpose(0, 1)
        else:
            found = self.features(video.flatten(0, 1)).mean((2, 3)).unflatten(0, (batch, frames))
        if self.over == "attention":
            return self.head((self.attend(found).softmax(1) * found).sum(1))
        if self.over == "recurrent":
            return self.head(self.recurrent(found)[0][:, -1])
        return self.head(found.mean(1))


def places(frames: int) -> list[tuple[int, int]]:
    """Where the thing's upper left corner is, row and column, frame by frame."""
    return [(4 + 5 * n % 30, (36 - 6 * n) % 40) for n in range(frames)]


def video(frames: int, colour: int, empty: tuple[int, ...] = ()) -> Tensor:
    """A square of one colour that moves, (1, T, 3, H, W); it is not in the `empty` frames."""
    found = torch.zeros(1, frames, 3, SIDE, SIDE)
    for n, (row, column) in enumerate(places(frames)):
        if n not in empty:
            found[0, n, colour, row : row + THING, column : column + THING] = 1
    return found
