"""The demo's classifier: a small residual network with a fine last feature map.

The last block has stride 8 (16 x 16 at 128 x 128), so a class activation map of it shows where an
object is, not only in which quarter of the picture. Any image size works.
"""

from torch import Tensor, nn

from camcore.adapters.demo.scenes import CLASS_NAMES

# Of pixels scaled to [0, 1], one value per channel. The scenes have no colour in common, so these
# are not their statistics, just what brings [0, 1] to [-2, 2].
IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.25, 0.25, 0.25)
# The middle of the sides that the training draws from.
IMAGE_SIDE = 128


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a way past them: (B, C, H, W) -> (B, C', H / stride, W / stride).

    >>> import torch
    >>> ResidualBlock(16, 32, stride=2)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        outer: Tensor = self.relu(inner + self.shortcut(x))
        return outer


class SceneNet(nn.Module):
    """Image (B, 3, H, W), normalised with `IMAGE_MEAN` and `IMAGE_STD`, to logits (B, 8).

    One logit per name in `CLASS_NAMES`; several classes may be present, so a sigmoid, not a
    softmax, makes probabilities of them. `block4` is the layer for class activation maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.block1 = ResidualBlock(32, 64, stride=2)
        self.block2 = ResidualBlock(64, 64)
        self.block3 = ResidualBlock(64, 128)
        self.block4 = ResidualBlock(128, 128)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, len(CLASS_NAMES))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = self.block4(self.block3(self.block2(self.block1(x))))
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


def scene_net() -> SceneNet:
    """The network with random weights, in training mode.

    >>> import torch
    >>> scene_net().eval()(torch.zeros(1, 3, 128, 128)).shape
    torch.Size([1, 8])
    """
    return SceneNet()
