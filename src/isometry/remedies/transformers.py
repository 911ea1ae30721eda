"""Transformers that train deep, or without normalization."""

from __future__ import annotations

import torch
from torch import Generator, nn

from isometry.layers.spec import LayerSpec
from isometry.networks.attention import Attention, FeedForward
from isometry.remedies.base import Remedy, rescale, specs_of


class ForTransformers(Remedy):
    """What the two share."""

    def blocks(self, network: nn.Module) -> int:
        """How many there are, each of two sublayers.

        Raises:
            UserError: for a network that is no transformer.
        """
        count = sum(isinstance(part, Attention) for part in network.modules())
        if count == 0:
            raise self.refuse("is for transformers; use model=vit or decoder")
        return count

    def scale_values(self, network: nn.Module, layers: list[LayerSpec], factor: float) -> None:
        """Multiply what carries the signal: value and output projections, feed-forward maps."""
        maps: list[nn.Module] = []
        for part in network.modules():
            if isinstance(part, Attention):
                maps += [part.value, part.out]
            elif isinstance(part, FeedForward):
                maps += [part.inner.weighted, part.out.weighted]
        for spec in specs_of(maps, layers):
            rescale(spec, factor)


class DeepNorm(ForTransformers):
    """x -> LN(α x + f(x)) with α = (2N)^(1/4), and weights scaled by β = (8N)^(-1/4), for N blocks
    (Wang et al. 2022, fig. 2: encoder-only and decoder-only). Goes with Glorot's weights.
    """

    def alter(self, network: nn.Module) -> None:
        blocks = self.blocks(network)
        residuals = self.residuals(network)
        if any(isinstance(each.after, nn.Identity | None) for each in residuals):
            raise self.refuse("is post-norm: set model.norm_place=post normalization=layer")
        for residual in residuals:
            residual.carry = (2 * blocks) ** 0.25

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        self.scale_values(network, layers, (8 * self.blocks(network)) ** -0.25)


class TFixup(ForTransformers):
    """No normalization, no warm-up; weights scaled by 0.67 N^(-1/4) for N blocks, embeddings
    N(0, 1/width) scaled by (9N)^(-1/4) (Huang et al. 2020, sec. 3.2). Decoders here have no
    cross-attention, and take the paper's rule for encoders. Goes with Glorot's weights.
    """

    def alter(self, network: nn.Module) -> None:
        self.blocks(network)
        self.refuse_norms(network)

    def begin(self, network: nn.Module, layers: list[LayerSpec], generator: Generator) -> None:
        blocks = self.blocks(network)
        self.scale_values(network, layers, 0.67 * blocks**-0.25)
        for part in network.modules():
            if isinstance(part, nn.Embedding):
                with torch.no_grad():
                    std = (9 * blocks) ** -0.25 * part.embedding_dim**-0.5
                    part.weight.normal_(0.0, std, generator=generator)
