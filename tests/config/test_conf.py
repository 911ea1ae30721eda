"""The configs as an interface: every key explained, every option composes, trains, and changes a
number.
"""

from __future__ import annotations

import functools
import inspect

import hydra.utils
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from commands import composed
from isometry.config.checks import validate
from isometry.config.compose import conf_dir
from isometry.config.targets import allowed_targets
from isometry.training.build import (
    build_classifier,
    build_data,
    build_network,
    seed_everything,
)

GROUPS = ("activation", "initializer", "model", "normalization", "optimizer", "remedy", "scheduler")
OPTIONS = [
    (group, path.stem) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))
]
DEFAULTS = {
    "activation": "tanh",
    "initializer": "glorot_normal",
    "model": "mlp",
    "normalization": "none",
}
DEFAULTS |= {"optimizer": "sgd", "remedy": "none", "scheduler": "constant"}
YAML_FILES = sorted(conf_dir().rglob("*.yaml"))

# options that need company
COMPANY = {
    ("initializer", "delta_orthogonal"): ["model=convnet"],
    ("activation", "squared_relu"): ["optimizer.lr=1e-6"],  # it explodes at the default rate
    ("initializer", "identity"): ["model.width=784"],
    ("initializer", "looks_linear"): ["activation=relu"],
    ("model", "irnn"): ["optimizer.lr=1e-3"],
    ("model", "resnet"): ["model.depth=8"],
    ("model", "vgg"): ["model.depth=7"],
    ("remedy", "deepnorm"): ["model=vit", "model.norm_place=post"],
    ("remedy", "depth_scaled"): ["model=residual_mlp", "model.depth=6"],
    ("remedy", "fixup"): ["model=residual_mlp", "model.depth=6"],
    ("remedy", "rezero"): ["model=residual_mlp", "model.depth=6"],
    ("remedy", "skipinit"): ["model=residual_mlp", "model.depth=6"],
    ("remedy", "tat"): ["activation=relu", "model.depth=16", "initializer=orthogonal"],
    ("remedy", "tfixup"): ["model=vit", "normalization=none"],
}


@pytest.mark.parametrize(
    "path", YAML_FILES, ids=lambda path: path.relative_to(conf_dir()).as_posix()
)
def test_every_key_has_its_line_of_comment(path):
    bare = []
    inside_block = False
    block_indent = 0
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if inside_block and (not stripped or indent > block_indent):
            continue
        inside_block = stripped.endswith(("|-", "|"))
        block_indent = indent
        if not stripped or stripped.startswith(("#", "- ")) or "#" in line or inside_block:
            continue
        key, _, value = stripped.partition(":")
        if value.strip() and key not in ("_target_", "defaults", "study_name"):
            bare.append(f"{number}: {stripped}")
    assert not bare, f"keys without a comment: {bare}"


def test_a_default_stands_once():
    """In `conf/`: what a key of a config sets has no other default in the code."""
    twice = []
    for path in YAML_FILES:
        if path.parent.name in (*GROUPS, "data"):
            node = whole(path)
            twice += [f"{path.stem}: {name}" for name in defaults_of(node) if name in node]
    assert not twice


def whole(path):
    """The content of an option's file, with what it inherits."""
    node = yaml.safe_load(path.read_text())
    for base in node.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            node = {**whole(path.with_name(f"{base}.yaml")), **node}
    return node


def defaults_of(node):
    """Parameters of a target of ours that may be left out."""
    target = node.get("_target_", "")
    if not target.startswith("isometry."):
        return []
    parameters = inspect.signature(hydra.utils.get_object(target)).parameters.values()
    return [each.name for each in parameters if each.default is not each.empty]


def test_every_target_can_be_imported():
    for target in allowed_targets():
        hydra.utils.get_object(target)


def train_three_steps(overrides):
    """A digest of loss, gradients and weights of three steps on 32 real digits, or texts."""
    theirs = "model=resnet18" in overrides
    config = composed(*([] if theirs else ["model.depth=4"]), "data.batch_size=32", *overrides)
    validate(OmegaConf.to_container(config, resolve=True))
    seed_everything(config.seed)
    data = data_of(str(config.data.get("task") or config.data.source))
    digits = batches_of(data, 3 if theirs else None)
    shape = (3, 28, 28) if theirs else data.input_shape
    vocabulary = getattr(data, "vocabulary", None)
    network = build_network(config, shape, data.num_classes, vocabulary, data.examples)
    classifier = build_classifier(config, network)
    classifier.train()
    optimizer = classifier.make_optimizer(classifier.parameters())
    scheduler = classifier.make_scheduler(optimizer, 3) if classifier.make_scheduler else None
    numbers = []
    for images, labels in digits:
        optimizer.zero_grad()
        loss = classifier.loss_function(classifier(images), labels)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        numbers.append(float(loss.detach()))
    numbers += [float(parameter.detach().double().norm()) for parameter in classifier.parameters()]
    return numbers


@functools.cache
def data_of(name):
    data = build_data(composed(f"data={name}"))
    data.setup()
    return data


def batches_of(data, channels):
    """Three, of images in as many channels as a network wants."""
    images, labels = data.splits["train"]
    for rows in torch.arange(0, 96).view(3, 32):
        x = data.normalization(images[rows])
        yield (x if channels is None else x.expand(-1, channels, -1, -1)), labels[rows]


@functools.cache
def baseline(company):
    return train_three_steps(company)


NETWORKS_OWN = ("activation", "own")  # tests/training/test_any_model.py


@pytest.mark.parametrize(("group", "option"), [each for each in OPTIONS if each != NETWORKS_OWN])
def test_every_option_trains_three_steps_and_changes_a_number(group, option):
    company = tuple(COMPANY.get((group, option), ()))
    numbers = train_three_steps([*company, f"{group}={option}"])
    assert all(map(torch.isfinite, torch.tensor(numbers)))
    default = baseline(company)
    assert (numbers == default) is (DEFAULTS[group] == option)


KEYS = [
    (["model.depth=5"], []),
    (["model.width=99"], []),
    (["model.bias=false"], []),
    (["model.channels=31"], ["model=convnet"]),
    (["model.kernel_size=5"], ["model=convnet"]),
    (["model.padding=zeros"], ["model=convnet"]),
    (["model.stages=1"], ["model=convnet"]),
    (["model.channel_multiplier=1"], ["model=convnet"]),
    (["model.bias=false"], ["model=convnet"]),
    (["activation.negative_slope=0.3"], ["activation=leaky_relu"]),
    (["activation.alpha=0.5"], ["activation=elu"]),
    (["initializer.gain=1.1"], []),
    (["initializer.mode=fan_in"], []),
    (["initializer.distribution=uniform"], []),
    (["initializer.sigma_b=0.1"], []),
    (["initializer.sigma_w=1.1"], ["initializer=gaussian"]),
    (["initializer.sigma_b=0.1"], ["initializer=gaussian"]),
    (["initializer.distribution=uniform"], ["initializer=gaussian"]),
    (["initializer.std=0.5"], ["initializer=normal"]),
    (["initializer.sigma_b=0.1"], ["initializer=normal"]),
    (["initializer.gain=1.1"], ["initializer=orthogonal"]),
    (["initializer.sigma_b=0.1"], ["initializer=orthogonal"]),
    (["initializer.gain=1.1"], ["initializer=delta_orthogonal", "model=convnet"]),
    (["initializer.sigma_b=0.1"], ["initializer=critical"]),
    (["initializer.distribution=orthogonal"], ["initializer=critical"]),
    (["optimizer.lr=0.2"], []),
    (["optimizer.momentum=0.5"], []),
    (["optimizer.weight_decay=0.1"], []),
    (["optimizer.betas=[0.5,0.9]"], ["optimizer=adam"]),
    (["optimizer.eps=1e-2"], ["optimizer=adam"]),
    (["optimizer.weight_decay=0.5"], ["optimizer=adamw"]),
    (["activation.initial_slope=0.5"], ["activation=prelu"]),
    (["activation.alpha=2.0"], ["activation=celu"]),
    (["activation.beta=3.0"], ["activation=swish"]),
    (["activation.module=Tanhshrink"], ["activation=torch_nn"]),
    (["initializer.distribution=truncated"], []),
    (["initializer.a=0.2"], ["initializer=uniform"]),
    (["initializer.gain=0.9"], ["initializer=identity", "model.width=784"]),
    (["initializer.connections=5"], ["initializer=sparse"]),
    (["initializer.std=0.5"], ["initializer=sparse"]),
    (["optimizer.nesterov=false"], ["optimizer=nesterov"]),
    (["optimizer.alpha=0.5"], ["optimizer=rmsprop"]),
    (["optimizer.momentum=0.5"], ["optimizer=rmsprop"]),
    (["optimizer.lr_decay=0.5"], ["optimizer=adagrad"]),
    (["scheduler.gamma=0.5"], ["scheduler=step"]),
    (["scheduler.milestones=[0.9]"], ["scheduler=step"]),
    (["scheduler.final=0.5"], ["scheduler=cosine"]),
    (["scheduler.warmup=0.9"], ["scheduler=warmup_cosine"]),
    (["loss=mse"], []),
    (["seed=1"], []),
    (["model.dropout=0.3"], []),
    (["model.block_depth=1"], ["model=residual_mlp"]),
    (["model.order=post"], ["model=residual_mlp"]),
    (["model.scale=0.5"], ["model=residual_mlp"]),
    (["model.gate_bias=-1"], ["model=highway"]),
    (["model.shortcut=B"], ["model=resnet", "model.depth=8"]),
    (["model.order=pre"], ["model=resnet", "model.depth=8"]),
    (["model.channels=12"], ["model=resnet", "model.depth=8"]),
    (["model.stem=12"], ["model=vgg", "model.depth=7"]),
    (["model.stem_stride=1"], ["model=vgg", "model.depth=7"]),
    (["model.kernel_size=5"], ["model=vgg", "model.depth=7"]),
    (["model.stage_channels=[32,64,32]"], ["model=vgg", "model.depth=7"]),
    (["model.reads=pixels"], ["model=rnn", "model.width=10"]),
    (["model.start=torch"], ["model=rnn"]),
    (["model.gain=0.9"], ["model=rnn"]),
    (["model.input_std=0.1"], ["model=rnn"]),
    (["model.forget_bias=2.0"], ["model=lstm"]),
    (["model.heads=2"], ["model=vit"]),
    (["model.patch=14"], ["model=vit"]),
    (["model.norm_place=sandwich"], ["model=vit"]),
    (["model.attention_scale=1.0"], ["model=vit"]),
    (["model.scale=auto"], ["model=decoder"]),
    (["remedy.start=0.5"], ["model=residual_mlp", "remedy=rezero"]),
    (
        ["remedy.eta=0.5"],
        ["activation=relu", "remedy=tat", "model.depth=16", "initializer=lecun_normal"],
    ),
    (["remedy.zeta=1.2"], ["remedy=dks"]),
    (["remedy.base_width=32"], ["remedy=mup"]),
    (["initializer.batch=16"], ["initializer=lsuv"]),
    (["initializer.tolerance=0.9"], ["initializer=lsuv"]),
    (["initializer.gain=0.9"], ["initializer=looks_linear", "activation=relu"]),
]


@pytest.mark.parametrize(("override", "company"), KEYS, ids=str)
def test_every_value_changes_a_number(override, company):
    assert train_three_steps([*company, *override]) != baseline(tuple(company))
