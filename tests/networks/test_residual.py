"""Residual, highway and VGG networks against their formulas and their papers' numbers."""

import pytest
import torch
from torch import nn

from commands import composed
from isometry.errors import UserError
from isometry.layers.discover import layers_of
from isometry.networks.residual import Residual, blocks_of, branch_scale
from isometry.training.build import build_network

X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def built(*overrides, shape=(1, 8, 8), vocabulary=None):
    return build_network(composed(*overrides), shape, 10, vocabulary).double()


def test_a_residual_sum_is_what_it_says():
    branch, shortcut = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    residual = Residual(branch, shortcut, nn.Tanh(), 0.3)
    residual.carry = 1.7
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = torch.tanh(1.7 * shortcut(x) + 0.3 * branch(x))
    torch.testing.assert_close(residual(x), expected, rtol=1e-14, atol=0)


def test_pre_activation_by_hand():
    network = built("model=residual_mlp", "model.depth=6", "model.width=7", "model.scale=0.5")
    stem, *blocks, readout = network.layers
    x = stem.weighted(X.flatten(1))
    for block in blocks:
        first, second = block.branch
        x = x + 0.5 * second.weighted(torch.tanh(first.weighted(torch.tanh(x))))
    expected = readout.weighted(torch.tanh(x))
    torch.testing.assert_close(network(X), expected, rtol=1e-13, atol=1e-15)


def test_post_activation_by_hand():
    network = built("model=residual_mlp", "model.depth=6", "model.width=7", "model.order=post")
    stem, *blocks, readout = network.layers
    x = torch.tanh(stem.weighted(X.flatten(1)))
    for block in blocks:
        first, second = block.branch
        x = torch.tanh(x + second.weighted(torch.tanh(first.weighted(x))))
    torch.testing.assert_close(network(X), readout.weighted(x), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_the_scale_auto_is_one_over_the_root_of_the_branches(order):
    network = built(
        "model=residual_mlp", "model.depth=18", "model.scale=auto", f"model.order={order}"
    )
    scales = [part.scale for part in network.modules() if isinstance(part, Residual)]
    assert scales == [pytest.approx(8**-0.5)] * 8
    assert branch_scale(0.2, 9) == 0.2


def test_a_depth_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"model.depth=21: must be 2 and a multiple of 6, e.g. 20"):
        blocks_of(21, 6, 2)


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_resnets_have_the_papers_parameters(depth, millions):
    """He et al. 2016, table 6."""
    network = built("model=resnet", f"model.depth={depth}", shape=(3, 32, 32))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
def test_a_resnet_has_as_many_layers_as_its_depth(order, shortcut):
    network = built("model=resnet", f"model.order={order}", f"model.shortcut={shortcut}")
    trunk = [spec for spec in layers_of(network) if "shortcut" not in spec.name]
    assert len(trunk) == 20
    assert sum("shortcut" in spec.name for spec in layers_of(network)) == 2 * (shortcut == "B")
    branches = {spec.branch for spec in layers_of(network)} - {None}
    assert len(branches) == (0 if shortcut == "none" else 9)


def test_option_a_subsamples_and_pads_with_zeros():
    from isometry.networks.resnet import Subsample

    x = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    out = Subsample(2, 5)(x)
    assert out.shape == (2, 8, 2, 2)
    torch.testing.assert_close(out[:, :3], x[:, :, ::2, ::2])
    assert not out[:, 3:].any()


def test_torchvisions_block_computes_the_same():
    """Option B, post-activation, batch norm: torchvision's `BasicBlock` with equal weights."""
    from torchvision.models.resnet import BasicBlock

    network = built("model=resnet", "model.shortcut=B", "model.depth=8")
    ours = network.layers[2]
    down = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    theirs = BasicBlock(16, 32, 2, down).double()
    first, second = ours.branch
    pairs = {
        theirs.conv1: first.weighted,
        theirs.conv2: second.weighted,
        down[0]: ours.shortcut.weighted,
    }
    for mine, source in pairs.items():
        mine.load_state_dict(source.state_dict())
    x = torch.randn(4, 16, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_a_highway_by_hand():
    network = built("model=highway", "model.depth=4", "model.width=6", "model.gate_bias=-1.5")
    stem, *trunk, readout = network.layers
    x = torch.tanh(stem.weighted(X.flatten(1)))
    for layer in trunk:
        gate = torch.sigmoid(layer.gate.weight @ x.T + (layer.gate.bias - 1.5)[:, None]).T
        x = gate * torch.tanh(layer.layer.weighted(x)) + (1 - gate) * x
    torch.testing.assert_close(network(X), readout.weighted(x), rtol=1e-12, atol=1e-14)


def test_vgg_in_the_shapes_of_he_2015():
    """Model A: 19 layers, 96 kernels of 7 x 7 at stride 2, five of 256, 512 and 512, 4096 twice."""
    shape = ["model.depth=19", "model.stem=96", "model.stage_channels=[256,512,512]"]
    network = built("model=vgg", *shape, "model.width=4096", shape=(3, 64, 64))
    sizes = [tuple(spec.size) for spec in layers_of(network)]
    assert len(sizes) == 19
    assert sizes[0] == (96, 3, 7, 7)
    assert sizes[1] == (256, 96, 3, 3)
    assert sizes[2:6] == [(256, 256, 3, 3)] * 4
    assert sizes[6:11] == [(512, 256, 3, 3), *[(512, 512, 3, 3)] * 4]
    assert sizes[11:16] == [(512, 512, 3, 3)] * 5
    assert sizes[16:] == [(4096, 512 * 4 * 4), (4096, 4096), (10, 4096)]


def test_dropout_leaves_the_mean_and_only_trains():
    network = built("model=mlp", "model.dropout=0.5", "activation=linear", "model.depth=2")
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.stack([network(X) for _ in range(2000)])
        exact = network.eval()(X)
    error = drawn.std(0) / 2000**0.5
    # of 50 logits the farthest lies 4.5 standard errors off once in 3,000 times
    assert float(((drawn.mean(0) - exact) / error).abs().max()) < 4.5
    assert float(error.min()) > 0
