"""What an initializer is: called with the layer map and a generator, it fills every layer and
declares σ_w and σ_b.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Generator

from isometry.layers.spec import LayerSpec
from isometry.theory.critical import CriticalPoint, NoCriticalPoint, critical


class InitializerError(ValueError):
    """An initializer that cannot serve the network it is given."""


def critical_point(layers: list[LayerSpec], sigma_b: float | None) -> CriticalPoint:
    """Scales with χ₁ = 1 for the φ of the hidden layers (`theory.critical`).

    Args:
        sigma_b: the bias scale; None: the one that goes with the φ, 0 where there are no biases.

    Raises:
        InitializerError: for a network without a hidden layer, or a φ without a critical point.
    """
    activation = next((spec.activation for spec in layers if spec.activation is not None), None)
    if activation is None:
        raise InitializerError(
            "initializer=critical and gain=auto need a hidden layer: model.depth=1 has none"
        )
    if not any(spec.bias is not None for spec in layers if spec.kind == "hidden"):
        sigma_b = sigma_b or 0.0
    try:
        return critical(activation, sigma_b)
    except NoCriticalPoint as error:
        raise InitializerError(
            f"{error}; set initializer.sigma_b above 0, or a gain or sigma_w by hand"
        ) from error


def suited(layers: list[LayerSpec]) -> list[LayerSpec]:
    """The layers that have one matrix or kernel of their own; of tied ones the first."""
    kinds = ("linear", "conv", "conv_transpose")
    mine = [spec for spec in layers if spec.map in kinds and spec.view is not None]
    first = {spec.view: spec for spec in reversed(mine)}
    return [spec for spec in mine if first[spec.view] is spec]


class PerLayer(ABC):
    """Fills one layer after the other; a subclass says how one layer's weight is drawn.

    Attributes:
        sigma_b: standard deviation of the biases.
    """

    sigma_b: float = 0.0
    gain: float | str
    distribution: str = "gaussian"

    def __call__(self, layers: list[LayerSpec], generator: Generator) -> None:
        """Draw the parameters of every layer from `generator`, in forward order. Tables
        (embeddings), recurrent cells and computed weights stay as they are.

        Raises:
            InitializerError: where a layer's shape does not suit.
        """
        fitted = self.fitted(layers)
        for spec in suited(layers):
            with torch.no_grad():
                for piece in spec.pieces:
                    sigma_w = fitted.draw(piece, generator)
                fitted.draw_bias(spec, generator)
            spec.declare(sigma_w, fitted.declared_sigma_b(spec), fitted.distribution)

    def fitted(self, layers: list[LayerSpec]) -> PerLayer:
        """The initializer for these layers, whose `gain: auto` is a number; itself stays as it is.

        The gain with χ₁ = 1 for the layers' own φ: with std gain/√fan_in it is the critical σ_w.
        """
        if getattr(self, "gain", None) != "auto":
            return self
        fitted = copy.copy(self)
        fitted.gain = critical_point(layers, self.sigma_b).sigma_w
        return fitted

    @abstractmethod
    def draw(self, spec: LayerSpec, generator: Generator) -> float:
        """Fill `spec.weight` in place; return the σ_w it stands for."""

    def draw_bias(self, spec: LayerSpec, generator: Generator) -> None:
        """Fill the bias with N(0, σ_b²)."""
        if spec.bias is not None:
            spec.bias.normal_(0.0, self.sigma_b, generator=generator)

    def declared_sigma_b(self, spec: LayerSpec) -> float:
        """The σ_b that the layer's bias stands for; 0 without a bias."""
        return self.sigma_b if spec.bias is not None else 0.0
