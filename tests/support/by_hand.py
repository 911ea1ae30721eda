"""The forward passes of `zoo`, written out operation by operation from their papers and torch's
documentation, with the tensors of every layer: x, h, z = normalized h, a = φ(z), at each use.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Use = tuple[Tensor, Tensor, Tensor, Tensor]


class Account:
    """What was computed, by layer, in order."""

    def __init__(self) -> None:
        self.uses: dict[str, list[Use]] = defaultdict(list)
        self.phi: dict[str, Callable[[Tensor], Tensor] | None] = {}

    def note(
        self,
        name: str,
        x: Tensor,
        h: Tensor,
        norm: Callable[[Tensor], Tensor] | None = None,
        phi: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Go on from h to a."""
        if h.requires_grad:
            h.retain_grad()
        z = h if norm is None else norm(h)
        a = z if phi is None else phi(z)
        self.uses[name].append((x, h, z, a))
        self.phi[name] = phi
        return a


def batch_norm(module: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """With the batch's own statistics, channel by channel."""

    def normalize(h: Tensor) -> Tensor:
        mean = h.mean((0, 2, 3), keepdim=True)
        variance = h.var((0, 2, 3), keepdim=True, correction=0)
        z = (h - mean) / (variance + module.eps).sqrt()
        return z * module.weight.view(1, -1, 1, 1) + module.bias.view(1, -1, 1, 1)

    return normalize


def layer_norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + module.eps).sqrt() * module.weight + module.bias


def relu(z: Tensor) -> Tensor:
    return z.clamp(min=0)


def gelu(z: Tensor) -> Tensor:
    return 0.5 * z * (1 + torch.erf(z / 2**0.5))


def conv(module: nn.Conv2d, x: Tensor) -> Tensor:
    settings = (module.stride, module.padding, module.dilation, module.groups)
    return F.conv2d(x, module.weight, module.bias, *settings)


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    return x @ module.weight.T + module.bias


def resnet18(net: Any, of: Account, x: Tensor) -> Tensor:
    x = of.note("conv1", x, conv(net.conv1, x), batch_norm(net.bn1), relu)
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for k, block in enumerate(getattr(net, f"layer{stage}")):
            path = f"layer{stage}.{k}"
            y = of.note(f"{path}.conv1", x, conv(block.conv1, x), batch_norm(block.bn1), relu)
            y = of.note(f"{path}.conv2", y, conv(block.conv2, y), batch_norm(block.bn2))
            if block.downsample is not None:
                map_, norm = block.downsample
                x = of.note(f"{path}.downsample.0", x, conv(map_, x), batch_norm(norm))
            x = relu(y + x)
    x = x.mean((2, 3))
    return of.note("fc", x, linear(net.fc, x))


def attention(module: nn.MultiheadAttention, of: Account, path: str, x: Tensor) -> Tensor:
    """Self-attention, [B, T, E]."""
    batch, time, width = x.shape
    packed = x @ module.in_proj_weight.T + module.in_proj_bias
    packed = of.note(f"{path}.in_proj", x, packed)
    q, k, v = (
        part.view(batch, time, module.num_heads, -1).transpose(1, 2)
        for part in packed.split(width, dim=-1)
    )
    weights = torch.softmax(q @ k.transpose(-1, -2) / (width // module.num_heads) ** 0.5, dim=-1)
    mixed = (weights @ v).transpose(1, 2).reshape(batch, time, width)
    return of.note(f"{path}.out_proj", mixed, linear(module.out_proj, mixed))


def encoder(net: Any, of: Account, x: Tensor) -> Tensor:
    """Post-LN (Vaswani et al. 2017)."""
    for k, layer in enumerate(net.encoder.layers):
        path = f"encoder.layers.{k}"
        x = layer_norm(layer.norm1, x + attention(layer.self_attn, of, f"{path}.self_attn", x))
        y = of.note(f"{path}.linear1", x, linear(layer.linear1, x), phi=relu)
        y = of.note(f"{path}.linear2", y, linear(layer.linear2, y))
        x = layer_norm(layer.norm2, x + y)
    x = x.mean(1)
    return of.note("readout", x, linear(net.readout, x))


def vit(net: Any, of: Account, x: Tensor) -> Tensor:
    """Pre-LN, a class token (Dosovitskiy et al. 2021)."""
    x = of.note("conv_proj", x, conv(net.conv_proj, x)).flatten(2).transpose(1, 2)
    x = torch.cat([net.class_token.expand(len(x), -1, -1), x], 1) + net.encoder.pos_embedding
    for k, block in enumerate(net.encoder.layers):
        path = f"encoder.layers.encoder_layer_{k}"
        y = layer_norm(block.ln_1, x)
        x = x + attention(block.self_attention, of, f"{path}.self_attention", y)
        y = layer_norm(block.ln_2, x)
        y = of.note(f"{path}.mlp.0", y, linear(block.mlp[0], y), phi=gelu)
        x = x + of.note(f"{path}.mlp.3", y, linear(block.mlp[3], y))
    x = layer_norm(net.encoder.ln, x)[:, 0]
    return of.note("heads.head", x, linear(net.heads.head, x))


def gpt(net: Any, of: Account, tokens: Tensor) -> Tensor:
    """Radford et al. 2019."""

    def tanh_gelu(z: Tensor) -> Tensor:
        return 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))

    x = of.note("wte", tokens, net.wte.weight[tokens]) + net.wpe
    for k, block in enumerate(net.h):
        y = layer_norm(block.ln_1, x)
        packed = y @ block.c_attn.weight + block.c_attn.bias
        packed = of.note(f"h.{k}.c_attn", y, packed)
        q, key, v = (
            part.view(*part.shape[:2], block.heads, -1).transpose(1, 2)
            for part in packed.split(x.shape[-1], dim=-1)
        )
        scores = q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:]).triu(1).bool()
        mixed = (scores.masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(1, 2)
        mixed = mixed.reshape(x.shape)
        projected = mixed @ block.c_proj.weight + block.c_proj.bias
        x = x + of.note(f"h.{k}.c_proj", mixed, projected)
        y = layer_norm(block.ln_2, x)
        h = y @ block.c_fc.weight + block.c_fc.bias
        y = of.note(f"h.{k}.c_fc", y, h, phi=tanh_gelu)
        h = y @ block.mlp_proj.weight + block.mlp_proj.bias
        x = x + of.note(f"h.{k}.mlp_proj", y, h)
    x = layer_norm(net.ln_f, x)[:, -1]
    return of.note("head", x, x @ net.wte.weight.T)


def densenet(net: Any, of: Account, x: Tensor) -> Tensor:
    features = [of.note("first", x, conv(net.first, x))]
    for k, (norm, map_) in enumerate(zip(net.norms, net.convs, strict=True)):
        y = relu(batch_norm(norm)(torch.cat(features, 1)))
        features.append(of.note(f"convs.{k}", y, conv(map_, y)))
    x = torch.cat(features, 1).mean((2, 3))
    return of.note("readout", x, linear(net.readout, x))


def unet(net: Any, of: Account, x: Tensor) -> Tensor:
    def leaky(z: Tensor) -> Tensor:
        return torch.where(z > 0, z, 0.1 * z)

    top = of.note("enter", x, conv(net.enter, x), phi=leaky)
    low = of.note("down", top, conv(net.down, top), phi=leaky)
    raised = torch.einsum("bihw,iokl->bohkwl", low, net.up.weight)  # kernel and stride are 2
    raised = raised.reshape(len(x), 4, *x.shape[2:]) + net.up.bias.view(1, -1, 1, 1)
    up = of.note("up", low, raised, phi=leaky)
    both = torch.cat([top, up], 1)
    return of.note("out", both, conv(net.out, both)).mean((2, 3))


def mobilenet(net: Any, of: Account, x: Tensor) -> Tensor:
    def relu6(z: Tensor) -> Tensor:
        return z.clamp(0, 6)

    for k in (0, 3, 6):
        norm = batch_norm(net.body[k + 1])
        x = of.note(f"body.{k}", x, conv(net.body[k], x), norm, relu6)
    x = x.mean((2, 3))
    return of.note("readout", x, linear(net.readout, x))


def siamese(net: Any, of: Account, left: Tensor, right: Tensor) -> Tensor:
    towers = []
    for x in (left, right):
        y = of.note("tower.0", x, linear(net.tower[0], x), phi=torch.tanh)
        towers.append(of.note("tower.2", y, linear(net.tower[2], y), phi=torch.tanh))
    x = torch.cat(towers, 1)
    return of.note("readout", x, linear(net.readout, x))


BY_HAND: dict[str, Callable[..., Tensor]] = {
    "resnet18": resnet18,
    "encoder": encoder,
    "vit": vit,
    "gpt": gpt,
    "densenet": densenet,
    "unet": unet,
    "mobilenet": mobilenet,
    "siamese": siamese,
}
