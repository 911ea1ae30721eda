"""Networks of strangers: small ones of every architecture, as their authors write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F


class Cells(nn.Module):
    """A GRU cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 6)
        for now in x.unbind(1):
            h = self.cell(now, h)
        return self.readout(h)


class Recurrent(nn.Module):
    """nn.LSTM, read at its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.lstm(x)[0][:, -1])


class Conv1D(nn.Module):
    """GPT-2's linear map: the weight is [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], -1)


class Block(nn.Module):
    """GPT-2's block, its attention written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.c_attn = Conv1D(width, 3 * width)
        self.c_proj = Conv1D(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = Conv1D(width, 4 * width)
        self.mlp_proj = Conv1D(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (p.view(batch, time, self.heads, -1).transpose(1, 2) for p in parts)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(a.transpose(1, 2).reshape(batch, time, width))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2's shape: learned positions, and a head that is the embedding."""

    def __init__(self, words: int = 11, width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.wte = nn.Embedding(words, width)
        self.wpe = nn.Parameter(0.1 * torch.randn(5, width))
        self.h = nn.ModuleList(Block(width, 2) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe
        for block in self.h:
            x = block(x)
        return self.ln_f(x)[:, -1] @ self.wte.weight.T


class Dense(nn.Module):
    """A DenseNet: every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 3 * k) for k in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 3 * k, 3, 3, padding=1) for k in range(3))
        self.readout = nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.first(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)), inplace=True)))
        return self.readout(torch.cat(features, 1).mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 3, 1)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.act(self.enter(x))
        low = self.act(self.down(top))
        return self.out(torch.cat([top, self.act(self.up(low))], 1)).mean((2, 3))


class Depthwise(nn.Module):
    """MobileNet's separable convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU6(inplace=True),
            nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU6(inplace=True),
            nn.Conv2d(4, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(inplace=True),
        )
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.body(x).mean((2, 3)))


class Siamese(nn.Module):
    """Two inputs through one tower."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh())
        self.readout = nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.readout(torch.cat([self.tower(left), self.tower(right)], 1))


class Encoder(nn.Module):
    """torch's own TransformerEncoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.readout = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.encoder(x).mean(1))


def vit() -> nn.Module:
    size = {"image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 2}
    return torchvision.models.VisionTransformer(**size, hidden_dim=8, mlp_dim=12, num_classes=3)


def resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=3)


def images(channels: int, side: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda batch: (torch.randn(batch, channels, side, side),)


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Any, ...]]]] = {
    "resnet18": (resnet, images(3, 32)),
    "encoder": (Encoder, lambda batch: (torch.randn(batch, 5, 8),)),
    "vit": (vit, images(3, 8)),
    "lstm": (Recurrent, lambda batch: (torch.randn(batch, 5, 4),)),
    "cells": (Cells, lambda batch: (torch.randn(batch, 5, 4),)),
    "gpt": (GPT, lambda batch: (torch.randint(0, 11, (batch, 5)),)),
    "densenet": (Dense, images(1, 6)),
    "unet": (UNet, images(1, 8)),
    "mobilenet": (Depthwise, images(1, 6)),
    "siamese": (Siamese, lambda batch: (torch.randn(batch, 5), torch.randn(batch, 5))),
}
"""A network that gives 3 classes (the GPT 11), and its inputs for a batch."""


def build(name: str, batch: int = 6) -> tuple[nn.Module, tuple[Any, ...], Tensor]:
    """A network in float64, inputs and labels."""
    torch.manual_seed(0)
    make, inputs = ZOO[name]
    network = make().double()
    given = [x.double() if x.is_floating_point() else x for x in inputs(batch)]
    return network, tuple(given), torch.arange(batch) % 3
