"""What transformers are built from: attention, the two sublayers with their places for a norm."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from isometry.activations import Activation
from isometry.errors import bad_value
from isometry.networks.blocks import Layer
from isometry.networks.residual import Residual

Place = Literal["pre", "post", "sandwich"]
"""Where a sublayer is normalized: before it (Xiong et al. 2020), behind the sum (Vaswani et al.
2017), or before and behind it, inside of the branch (Ding et al. 2021).
"""


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, sec. 3.2); its four maps are layers.

    Args:
        width: units of a position.
        heads: how many attend; they share the units.
        causal: whether a position sees only those up to itself.
        scale: factor on q·k; None: 1/√(units of a head).
    """

    def __init__(self, width: int, heads: int, causal: bool, scale: float | None):
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.scale = scale
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, positions, width] to the same."""
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two maps with φ between them, at each position."""

    def __init__(self, width: int, inner: int, activation: Activation):
        super().__init__()
        self.inner = Layer(nn.Linear(width, inner), activation)
        self.out = Layer(nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x))  # type: ignore[no-any-return]


def sublayer(inside: nn.Module, width: int, place: Place, kind: str, scale: float) -> Residual:
    """A residual sum around attention or feed-forward, with its normalization in its place."""
    before = [norm_of(kind, width)] if place in ("pre", "sandwich") else []
    behind = [norm_of(kind, width)] if place == "sandwich" else []
    after = norm_of(kind, width) if place == "post" else None
    return Residual(nn.Sequential(*before, inside, *behind), None, after, scale)


def norm_of(kind: str, width: int) -> nn.Module:
    """The normalization of one position; the identity for `none`.

    Raises:
        UserError: for a kind that transformers do not have.
    """
    norms = {"none": nn.Identity, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
    if kind not in norms:
        raise bad_value("normalization.kind", kind, "transformers take layer, rms, none")
    return nn.Identity() if kind == "none" else norms[kind](width)
