"""Small networks whose channels are joined in every way that networks join them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 16, 16)


IMAGES = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def conv(before: int, after: int, size: int = 3, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, padding=size // 2, **arguments)


class Ending(nn.Module):
    """A body, the mean over positions, and a linear layer."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Block(nn.Module):
    """x + f(x), with or without an activation behind the sum."""

    def __init__(self, *layers: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = nn.Sequential(*layers), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.branch(x))


def basic(width: int, hidden: int) -> Block:
    return Block(
        conv(width, hidden, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        conv(hidden, width, bias=False),
        nn.BatchNorm2d(width),
        after=nn.ReLU(),
    )


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Padded(nn.Module):
    """A shortcut whose channels are padded by a fixed number, as in ResNets for CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(8, 16, stride=2), conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))


class Joined(nn.Module):
    """Concatenation, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.c = conv(8, 6), conv(14, 10), nn.BatchNorm2d(24), conv(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.a(x))], 1)
        return F.relu(self.c(self.norm(torch.cat([self.b(x), x], 1))))


class Shuffled(nn.Module):
    """Half of the channels pass, the others are shuffled with them."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(8, 12, 1), nn.ReLU(), conv(12, 12, groups=12), conv(12, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        x = torch.cat([first, self.branch(second)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class Reversed(nn.Module):
    """Channels in another order, which torch-pruning does not follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


class Tokens(nn.Module):
    """Blocks of attention of `nn.MultiheadAttention` and an MLP, on patches with a token of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 5, 16))
        self.one, self.two = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        y = self.one(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head((x + self.mlp(self.two(x)))[:, 0])


class Unusual(nn.Module):
    """Layers that hold their weights in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = conv(3, 8), nn.BatchNorm2d(8, affine=False)
        self.b = nn.utils.parametrizations.weight_norm(conv(8, 8))
        self.c, self.d = conv(8, 8), conv(8, 8)
        self.d.weight = self.c.weight
        self.e, self.f, self.fc = conv(8, 12), conv(12, 8), nn.Linear(8, 5)
        self.a.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.d(F.relu(self.c(F.relu(self.b(self.norm(self.a(x)))))))
        return self.fc(self.f(F.prelu(self.e(x), torch.tensor(0.1))).mean((2, 3)))


OWN: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: Ending(nn.Sequential(conv(3, 8), nn.ReLU(), basic(8, 8), basic(8, 12)), 8),
    "norm first": lambda: Ending(
        nn.Sequential(conv(3, 8), *(Block(nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8)) for _ in range(2))), 8
    ),
    "padded shortcut": lambda: Ending(nn.Sequential(conv(3, 8), nn.ReLU(), Padded()), 16),
    "depthwise, gated": lambda: Ending(
        nn.Sequential(conv(3, 8), conv(8, 12, 1), conv(12, 12, groups=12), Gate(12), conv(12, 8, 1)), 8
    ),
    "grouped": lambda: Ending(nn.Sequential(conv(3, 16), conv(16, 16, groups=4), nn.ReLU(), conv(16, 8)), 8),
    "concatenation": lambda: Ending(nn.Sequential(conv(3, 8), Joined()), 8),
    "shuffled": lambda: Ending(nn.Sequential(conv(3, 16), Shuffled(), Shuffled(), conv(16, 16, 1)), 16),
    "group norm": lambda: Ending(nn.Sequential(conv(3, 16), nn.GroupNorm(4, 16), nn.ReLU(), conv(16, 8)), 8),
    "flattened": lambda: nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 5)
    ),
    "attention": Tokens,
    "unusual": Unusual,
}


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in network.parameters()]
