"""Transformers against torch's own layers with equal weights, and what they promise."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from commands import composed
from isometry import activations
from isometry.errors import UserError
from isometry.layers.discover import layers_of
from isometry.networks.attention import Attention, FeedForward, sublayer
from isometry.training.build import build_network

WIDTH = 12


def decoder(*overrides):
    small = ["model.width=12", "model.heads=3", "model.depth=2"]
    return build_network(composed("model=decoder", *small, *overrides), (9,), 12, 12).double()


@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("causal", [False, True])
def test_torchs_layer_with_equal_weights(place, causal):
    """Outputs and gradients of `nn.TransformerEncoderLayer`."""
    torch.manual_seed(0)
    inside = [Attention(WIDTH, 3, causal, None), FeedForward(WIDTH, 48, activations.gelu())]
    ours = nn.Sequential(*(sublayer(each, WIDTH, place, "layer", 1.0) for each in inside)).double()
    theirs = equal_layer(ours, place).double()
    x = torch.randn(4, 7, WIDTH, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(7).double() if causal else None
    found, expected = ours(x), theirs(x, src_mask=mask, is_causal=causal)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(found)
    found.backward(direction)
    expected.backward(direction)
    attention = ours[0].branch[-1]
    stacked = torch.cat([p.weight.grad for p in (attention.query, attention.key, attention.value)])
    torch.testing.assert_close(stacked, theirs.self_attn.in_proj_weight.grad, rtol=1e-9, atol=1e-12)
    last = ours[1].branch[-1].out.weighted.weight.grad
    torch.testing.assert_close(last, theirs.linear2.weight.grad, rtol=1e-9, atol=1e-12)


def equal_layer(ours, place):
    settings = {"dropout": 0.0, "activation": "gelu", "batch_first": True}
    theirs = nn.TransformerEncoderLayer(WIDTH, 3, 48, norm_first=place == "pre", **settings)
    attention, feed_forward = (each.branch[-1] for each in ours)
    maps = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([each.weight for each in maps]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([each.bias for each in maps]))
    theirs.self_attn.out_proj.load_state_dict(attention.out.state_dict())
    theirs.linear1.load_state_dict(feed_forward.inner.weighted.state_dict())
    theirs.linear2.load_state_dict(feed_forward.out.weighted.state_dict())
    return theirs


def test_sandwich_normalizes_before_and_behind():
    torch.manual_seed(0)
    inside = FeedForward(WIDTH, 48, activations.gelu())
    ours = sublayer(inside, WIDTH, "sandwich", "rms", 1.0)
    x = torch.randn(4, 7, WIDTH)
    expected = x + F.rms_norm(inside(F.rms_norm(x, (WIDTH,))), (WIDTH,))
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("place", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("kind", ["layer", "rms", "none"])
def test_a_decoder_does_not_see_what_is_to_come(place, kind):
    network = decoder(f"model.norm_place={place}", f"normalization={kind}")
    text = torch.randint(12, (2, 9))
    changed = text.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 12
    before, after = network(text), network(changed)
    assert before.shape == (2, 12, 9)
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, :, 5:], after[:, :, 5:])


def test_attention_and_feed_forward_are_layers_of_the_map():
    names = [spec.name for spec in layers_of(decoder())]
    parts = ("query", "key", "value", "out", "inner", "out")
    assert len(names) == 1 + 2 * 6 + 1
    assert [name.rpartition(".")[2] for name in names[1:7]] == list(parts)
    assert layers_of(decoder())[5].activation.name == "gelu"


def test_patches_are_the_squares_of_the_image():
    config = composed("model=vit", "model.width=8", "model.heads=2", "model.patch=4")
    stem = build_network(config, (2, 8, 12), 10).double().layers[0].into
    x = torch.randn(3, 2, 8, 12, dtype=torch.float64)
    squares = [x[:, :, r : r + 4, c : c + 4].flatten(1) for r in (0, 4) for c in (0, 4, 8)]
    torch.testing.assert_close(stem(x), stem.weighted(torch.stack(squares, 1)), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["normalization=batch"], "normalization.kind=batch: transformers take"),
        (["model.heads=5"], "model.heads=5: must divide model.width=64"),
        (["model.patch=5"], "model.patch=5: must divide the image's 28 x 28"),
    ],
)
def test_what_it_does_not_take_is_named(overrides, word):
    with pytest.raises(UserError, match=word):
        build_network(composed("model=vit", *overrides), (1, 28, 28), 10)


def test_text_and_images_do_not_mix():
    with pytest.raises(UserError, match="data=mnist_5k: model=decoder reads text"):
        build_network(composed("model=decoder", "data=mnist_5k"), (1, 28, 28), 10)
    with pytest.raises(UserError, match="data=copy: model=mlp reads images"):
        build_network(composed("data=copy"), (9,), 12, 12)
