"""`isometry theory`: what it prints is what the theory says, for every activation."""

import numpy as np
import pytest

from builders import phi_of
from isometry import activations, cli
from isometry.config.compose import compose, conf_dir
from isometry.plots.phase import chi_grid, draw_phase_diagram
from isometry.theory.critical import NoCriticalPoint, critical
from isometry.verbs.theory import right_edge, row


def test_the_card_of_tanh(capsys, tmp_path):
    arguments = ["activation=tanh", "phase_diagram=true", f"paths.runs={tmp_path}"]
    assert cli.run(["isometry", "theory", *arguments]) == 0
    text = capsys.readouterr().out
    for words in ("1.2601", "1.7008", "chaotic", "ordered", "initializer.gain=1 ", "0 (marginal)"):
        assert words in text, words
    assert (tmp_path / "plots" / "phase-tanh.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "option",
    sorted({path.stem for path in (conf_dir() / "activation").glob("*.yaml")} - {"own"}),
)
def test_every_activation_has_a_card(option, capsys, tmp_path):
    assert cli.run(["isometry", "theory", f"activation={option}", f"paths.runs={tmp_path}"]) == 0
    assert "χ₁" in capsys.readouterr().out


def test_a_negative_bias_scale_is_the_users_mistake(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.run(["isometry", "theory", "sigma_b=[-1]"])
    assert "sigma_b=[-1]" in capsys.readouterr().err


def test_squared_relu_has_no_critical_point_without_biases(make_config):
    """χ₁ = 4/3 at every fixed point: σ_w²·3q²/2 = q gives σ_w²·2q = 4/3."""
    with pytest.raises(NoCriticalPoint, match="squared_relu"):
        critical(activations.squared_relu(), 0.0)
    cells = row("squared_relu", activations.squared_relu())
    assert cells[1] == "none"
    assert cells[-3:] == ["∞", "∞", "0"]  # not where the computed range of q ends
    with_bias = critical(activations.squared_relu(), 0.2)
    assert with_bias.sigma_w**2 * 2 * with_bias.q_star == pytest.approx(1.0, rel=1e-9)  # E φ'² = 2q


def test_the_phase_diagram_is_chi_at_the_settled_length():
    """relu: log10(σ_w²/2) everywhere."""
    sigma_w = np.array([0.5, 1.0, 2.0])
    chi = chi_grid(activations.relu(), sigma_w, np.array([0.0, 0.3]))
    np.testing.assert_allclose(chi, np.log10(sigma_w**2 / 2)[None].repeat(2, 0), atol=1e-6)
    figure = draw_phase_diagram(activations.relu(), points=11)
    assert figure.axes[0].get_xlabel() == r"$\sigma_w$"


def test_a_networks_own_activation_has_none(capsys):
    with pytest.raises(SystemExit):
        cli.run(["isometry", "theory", "activation=own"])
    assert "activation=own: is a network's own φ" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "edge"), [("tanh", 4.0), ("sigmoid", 1.5 * 10.149)])
def test_the_phase_diagram_holds_the_critical_line(name, edge):
    config = compose("theory", [f"activation={name}"])
    assert right_edge(phi_of(name), config) == pytest.approx(edge, rel=1e-3)
    config.sigma_w_max = 2.5
    assert right_edge(phi_of(name), config) == 2.5
