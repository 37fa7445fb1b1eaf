"""Two small models that FLOP counters are compared on: recurrent and convolutional."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentConfig:
    """The shape of an `nn.LSTM` with a linear head."""

    features: int = 64
    hidden: int = 128
    layers: int = 2
    labels: int = 10


class Recurrent(nn.Module):
    """`nn.LSTM` and a head on every step, (B, T, features) -> (B, T, labels)."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.lstm = nn.LSTM(config.features, config.hidden, config.layers, batch_first=True)
        self.head = nn.Linear(config.hidden, config.labels)

    def forward(self, x: Tensor) -> Tensor:
        """Label every step."""
        out: Tensor = self.head(self.lstm(x)[0])
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetConfig:
    """The shape of a ResNet: a stem, stages of two-convolution blocks, and a linear head.

    Every stage but the first halves the image.
    """

    image: int = 64
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 2
    labels: int = 10


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the convolutions to the shortcut."""
        y = self.second_norm(self.second(self.first_norm(self.first(x)).relu()))
        return (y + self.shortcut(x)).relu()


def resnet(config: ResNetConfig) -> nn.Module:
    """A small ResNet, (B, 3, image, image) -> (B, labels)."""
    parts: list[nn.Module] = [nn.Conv2d(3, config.widths[0], 3, padding=1, bias=False)]
    before = config.widths[0]
    for stage, width in enumerate(config.widths):
        for block in range(config.blocks):
            parts.append(ResidualBlock(before, width, stride=2 if stage and not block else 1))
            before = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, config.labels))
