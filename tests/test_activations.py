import math

import numpy as np
import pytest
import torch
from scipy import special

from builders import phi_of
from isometry import activations
from isometry.errors import UserError

Z = np.linspace(-6, 6, 241) + 0.0137  # no kink is hit

REFERENCE = {
    "linear": lambda z: z,
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "softsign": lambda z: z / (1 + np.abs(z)),
    "erf": special.erf,
    "relu": lambda z: np.where(z > 0, z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(z)),
    "gelu": lambda z: z * special.ndtr(z),
    "silu": lambda z: z * special.expit(z),
    "softplus": lambda z: np.logaddexp(0, z),
    "hard_tanh": lambda z: np.clip(z, -1, 1),
    "arctan": np.arctan,
    "prelu": lambda z: np.where(z > 0, z, 0.25 * z),
    "celu": lambda z: np.where(z > 0, z, np.expm1(z)),
    "mish": lambda z: z * np.tanh(np.logaddexp(0, z)),
    "sine": np.sin,
    "squared_relu": lambda z: np.where(z > 0, z, 0) ** 2,
    "swish": lambda z: z * special.expit(z),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_phi_is_the_formula_in_float64(name):
    activation = phi_of(name)
    assert activation.phi(Z).dtype == np.float64
    np.testing.assert_allclose(activation.phi(Z), REFERENCE[name](Z), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", REFERENCE)
def test_phi_prime_is_the_derivative(name):
    # central difference in float64: truncation h² ~ 1e-10, cancellation 1e-16/1e-5
    step = 1e-5
    numeric = (REFERENCE[name](Z + step) - REFERENCE[name](Z - step)) / (2 * step)
    np.testing.assert_allclose(phi_of(name).phi_prime(Z), numeric, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "edge"),
    [
        ("sigmoid", math.log((1 + math.sqrt(0.95)) / (1 - math.sqrt(0.95)))),  # s(1-s) = 0.05/4
        ("tanh", math.acosh(math.sqrt(20))),  # sech² = 0.05
        ("erf", math.sqrt(-math.log(0.05))),
        ("softsign", math.sqrt(20) - 1),
    ],
)
def test_saturation_begins_where_the_slope_is_five_percent(name, edge):
    (low, high) = phi_of(name).saturated_intervals
    assert low[0] == -math.inf
    assert high[1] == math.inf
    assert low[1] == pytest.approx(-edge, rel=1e-9)
    assert high[0] == pytest.approx(edge, rel=1e-9)


def test_relu_saturates_from_zero_down_and_linear_never():
    assert activations.relu().saturated_intervals == ((-math.inf, 0.0),)
    assert activations.linear().saturated_intervals == ()


def test_gelu_has_a_second_stretch_around_its_minimum():
    intervals = activations.gelu().saturated_intervals
    assert len(intervals) == 2
    for low, high in intervals:
        inside = np.linspace(max(low, -10), high, 50)
        assert (
            np.abs(activations.gelu().phi_prime(inside))
            <= 0.05 * activations.gelu().slope_max * (1 + 1e-9)
        ).all()


@pytest.mark.parametrize(
    ("name", "slope"),
    [("sigmoid", 0.25), ("tanh", 1.0), ("relu", 1.0), ("erf", 2 / math.sqrt(math.pi))],
)
def test_largest_slope(name, slope):
    assert phi_of(name).slope_max == pytest.approx(slope, rel=1e-9)


def test_squared_relu_has_no_largest_slope_and_prelu_a_learned_one():
    assert activations.squared_relu().slope_max == math.inf
    assert activations.squared_relu().saturated_intervals is None
    assert phi_of("prelu").saturated_intervals is None


def test_any_torch_module_by_name_with_arguments():
    assert activations.from_torch("Hardswish").phi(1.0) == pytest.approx(4 / 6)
    assert activations.from_torch("Softshrink", lambd=0.25).phi(1.0) == pytest.approx(0.75)
    with pytest.raises(UserError, match=r"activation\.inplace=True: allowed is false"):
        activations.from_torch("ReLU", inplace=True)


@pytest.mark.parametrize(
    "module", ["Nonsense", "Softmax", "GLU", "Linear", "functional", "LayerNorm"]
)
def test_what_is_not_an_elementwise_module_is_refused(module):
    with pytest.raises(UserError, match="activation"):
        activations.from_torch(module)


def test_a_users_function_becomes_an_activation():
    cube = activations.wrap("cube", lambda: lambda z: z**3)
    assert cube.phi(2.0) == 8
    assert cube.phi_prime(2.0) == 12
    with pytest.raises(UserError, match="not elementwise"):
        activations.wrap("cumulated", lambda: lambda z: z.cumsum(1))


def test_the_slope_can_be_asked_for_inside_no_grad():
    """A recorder asks for saturation under `no_grad`, and is the first to do so for some
    activations.
    """
    with torch.no_grad():
        assert activations.sine().slope_max == pytest.approx(1.0)
        assert activations.tanh().phi_prime(0.0) == pytest.approx(1.0)
