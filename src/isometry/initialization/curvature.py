"""The largest stable learning rate at initialization: gradient descent on a quadratic of curvature
λ diverges at rates over 2/λ (Cohen et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from isometry.initialization.observe import typed
from isometry.layers.operations import tensors_in

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix, as what it does to a vector of all parameters."""

TOLERANCE = 1e-3
"""Of an eigenvalue, relative."""

VECTORS = 10
"""Lanczos vectors: the largest eigenvalue stands far from the others, a dozen products find it."""


@dataclass(frozen=True)
class Curvature:
    """Largest eigenvalues at initialization, of the loss of one batch.

    Attributes:
        hessian: of ∂²ℓ/∂θ².
        gauss_newton: of Jᵀ (∂²ℓ/∂z²) J, z what the network returns, J = ∂z/∂θ; None where z is more
            than one tensor.
        reason: why one is None.
    """

    hessian: float | None
    gauss_newton: float | None
    reason: str | None = None


def curvature(
    network: nn.Module,
    batch: tuple[Any, Any],
    loss: Callable[[Any, Any], Tensor] = cross_entropy,
) -> Curvature:
    """By Lanczos' method on products with the Hessian (Pearlmutter 1994) and with the Gauss-Newton
    matrix, in training mode: in float32, where convolutions are fast, and in float64 where that is
    not finite.

    Args:
        network: comes back in float64.
        batch: inputs (a tensor, or a tuple of arguments) and labels.
        loss: of what the network returns and labels.
    """
    inputs, labels = batch
    found = Curvature(None, None)
    for dtype in (torch.float32, torch.float64):
        network.to(dtype).train()
        found = _curvature(network, typed(inputs, dtype), lambda out: loss(out, labels))
        if found.reason != NOT_FINITE:
            break
    network.double()
    return found


NOT_FINITE = "the loss or its second derivative is not finite"


def _curvature(
    network: nn.Module, arguments: list[Any], loss: Callable[[Any], Tensor]
) -> Curvature:
    """One forward pass serves all products, so that what it draws (dropout) is drawn once."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative
        out = network(*arguments)
    outputs = tensors_in(out)
    try:
        value = loss(out)
        if not torch.isfinite(value):
            return Curvature(None, None, NOT_FINITE)
        hessian = largest_eigenvalue(hessian_product(value, parameters), parameters)
        if len(outputs) != 1:
            return Curvature(hessian, None, "the network returns more than one tensor")
        product = gauss_newton_product(outputs[0], loss, parameters)
        return Curvature(hessian, largest_eigenvalue(product, parameters))
    except ArpackNoConvergence:
        return Curvature(None, None, "Lanczos' method did not converge")
    except ArpackError:
        return Curvature(None, None, NOT_FINITE)
    except RuntimeError as error:
        return Curvature(None, None, f"no second derivative: {str(error).splitlines()[0]}")


def hessian_product(value: Tensor, parameters: Sequence[Tensor]) -> Product:
    """v → ∂²ℓ/∂θ² v."""
    gradient = _flat(_grad(value, parameters, create_graph=True), parameters)
    _refuse_once_differentiable(gradient)
    return lambda v: _flat(_grad(gradient, parameters, v), parameters)


def gauss_newton_product(
    z: Tensor, loss: Callable[[Tensor], Tensor], parameters: Sequence[Tensor]
) -> Product:
    """v → Jᵀ (∂²ℓ/∂z²) J v. Jᵀu is linear in u: its derivative by u along v is J v."""
    u = torch.zeros_like(z, requires_grad=True)
    pulled = _flat(_grad(z, parameters, u, create_graph=True), parameters)
    leaf = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (pushed,) = torch.autograd.grad(pulled, u, v, retain_graph=True)
        (bent,) = _grad(slope, [leaf], pushed)
        return _flat(
            _grad(z, parameters, torch.zeros_like(z) if bent is None else bent), parameters
        )

    return product


def _refuse_once_differentiable(gradient: Tensor) -> None:
    """Of an operation that its author marks so, torch gives no second gradient and no error.

    Raises:
        RuntimeError: where there is one.
    """
    waiting = [gradient.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name().endswith("Error"):
            raise RuntimeError("an operation of the network can be differentiated once only")
        new = {following for following, _ in node.next_functions} - seen
        seen |= new
        waiting += new


def largest_eigenvalue(product: Product, parameters: Sequence[Tensor]) -> float:
    """The largest (not of largest size) eigenvalue, to `TOLERANCE`.

    Raises:
        ArpackError: where it does not converge, or the product is not finite.
    """
    size = sum(p.numel() for p in parameters)
    like = parameters[0]

    def apply(v: NDArray[np.float64]) -> NDArray[np.float64]:
        found = product(torch.as_tensor(v.ravel(), dtype=like.dtype, device=like.device))
        return found.double().cpu().numpy()

    if size == 1:
        return float(apply(np.ones(1))[0])
    start = np.random.default_rng(0).standard_normal(size)
    first = apply(start)
    if not np.isfinite(first).all():
        raise ArpackError(-9)
    if not first.any():  # of a loss that is linear in all parameters
        return 0.0
    operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
    values = eigsh(
        operator,
        1,
        which="LA",
        v0=start,
        ncv=min(VECTORS, size),
        tol=TOLERANCE,
        return_eigenvectors=False,
    )
    return float(values[0])


def stable_rate(eigenvalue: float | None, optimizer: Mapping[str, Any]) -> float | None:
    """The largest rate at which a quadratic of that curvature does not diverge under SGD: 2/λ;
    2(1+β)/λ with momentum β, 2(1+β)/((1+2β)λ) with Nesterov's (Cohen et al. 2021, eq. 1 and
    appendix B). An L2 penalty adds to λ.

    Returns:
        None without a positive eigenvalue, and for optimizers that scale each weight by itself.
    """
    if not str(optimizer.get("_target_", "")).endswith(".SGD") or eigenvalue is None:
        return None
    bent = eigenvalue + float(optimizer.get("weight_decay", 0.0))
    beta = float(optimizer.get("momentum", 0.0))
    lookahead = 1 + 2 * beta if optimizer.get("nesterov", False) else 1.0
    return 2 * (1 + beta) / (lookahead * bent) if bent > 0 else None


def _grad(
    of: Tensor, by: Sequence[Tensor], along: Tensor | None = None, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Gradients, None where there is none; the graph stays for the next product."""
    if not of.requires_grad:  # the gradient of something linear
        return (None,) * len(by)
    return torch.autograd.grad(
        of, by, along, retain_graph=True, create_graph=create_graph, allow_unused=True
    )


def _flat(gradients: tuple[Tensor | None, ...], parameters: Sequence[Tensor]) -> Tensor:
    """One vector, in the parameters' order."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])
