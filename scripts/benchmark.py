"""Ratios, measured side by side and interleaved in one process; written to `docs/benchmarks.md`.

    python scripts/benchmark.py epoch loader start memory signals

Each name is a section; a section that is run replaces its table in the document. Absolute times
belong to the machine, ratios much less so; the document names machine, date and command.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import functools
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
DEVICE = "cpu"
"""Where `signals` trains."""

IMPORTS = "import torch, lightning.pytorch, hydra"


def interleave(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Least seconds of each variant over the rounds; the variants take turns, so that a slow minute
    hits all of them.

    The least, because other processes of a machine only ever add time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            seconds[name].append(variant())
    return {name: min(values) for name, values in seconds.items()}


def ratios(variants: dict[str, Callable[[], float]], rounds: int) -> tuple[float, dict[str, float]]:
    """Median seconds of the first variant, and each other one's median ratio to it, round by
    round.
    """
    return over_first(by_round(variants, rounds))


def by_round(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round.

    For short variants, on a machine whose speed changes from one second to the next: neighbours in
    time are compared, and each round begins with another variant.
    """
    names = list(variants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            found[name].append(variants[name]())
    return found


def over_first(found: dict[str, list[float]], share: float = 1.0) -> tuple[float, dict[str, float]]:
    """Median seconds of the first variant, and each other one's median ratio to it; of a share of
    the rounds, the fastest.
    """
    first, *others = found
    whole = [sum(seconds) for seconds in zip(*found.values(), strict=True)]
    chosen = sorted(range(len(whole)), key=whole.__getitem__)[: max(1, round(share * len(whole)))]
    ratio = {
        name: statistics.median(found[name][i] / found[first][i] for i in chosen) for name in others
    }
    return statistics.median(found[first][i] for i in chosen), ratio


def clock(function: Callable[[], object]) -> float:
    """Seconds of one call, until the device has done its part."""
    wait()
    started = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """For the accelerator."""
    if DEVICE == "cuda":
        import torch

        torch.cuda.synchronize()


# ---- epoch ---------------------------------------------------------------------------------------


def synthetic_data(batch_size: int = 128, count: int = 60_000):
    """60,000 images of MNIST's shape in our data module: the content does not matter for time."""
    import torch

    from isometry.data.module import ImageData
    from isometry.data.sources import Images

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count + 500, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count + 500,), generator=generator)
    source = Images(images, labels, images[:500].clone(), labels[:500].clone())
    return ImageData(
        source,
        batch_size,
        val_size=500,
        cache_dir="",
        raw_dir=None,
        eval_batch_size=1000,
        seed=0,
        train_size=None,
        augmentation="none",
    )


def make_classifier(config):
    """A fresh classifier of a config on MNIST's shape."""
    from isometry.training.build import build_classifier, build_network

    return build_classifier(config, build_network(config, (1, 28, 28), 10))


def train_ours(config, data) -> float:
    """Seconds of `fit` with everything `isometry train` does, W&B left out."""
    from isometry.config.compose import resolved
    from isometry.runs.directory import RunDirectory
    from isometry.runs.signal_store import SignalStore
    from isometry.training.callbacks import Signals, Throughput
    from isometry.training.loggers import build_loggers
    from isometry.training.run import build_trainer

    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "study" / "run")
        run.begin("")
        loggers = build_loggers(run, 1, {}, ["csv"], "isometry", None, True, 30.0)
        signals = Signals(
            store=SignalStore(run.signals),
            initial_weights=run.initial_weights,
            **resolved(config.callbacks.signals),
        )
        trainer = build_trainer(config, run, loggers, [signals, Throughput()])
        classifier = make_classifier(config)
        return clock(lambda: trainer.fit(classifier, data))


def train_bare(config, data) -> float:
    """Seconds of `fit` of a Trainer with everything switched off, on the same loader and module."""
    from lightning.pytorch import Trainer

    off = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_val_batches=0, num_sanity_val_steps=0, **off
    )
    classifier = make_classifier(config)
    return clock(lambda: trainer.fit(classifier, data))


def train_by_hand(config, data) -> float:
    """Seconds of a plain torch loop over the same batches, without our loader: index, normalize,
    step.
    """
    import torch
    from torch.nn import functional as F

    network = make_classifier(config).network
    optimizer = torch.optim.SGD(network.parameters(), lr=config.optimizer.lr)
    images, labels = data.splits["train"]
    normalize = data.normalization

    def loop() -> None:
        order = torch.randperm(len(labels))
        for start in range(0, len(labels) - 127, 128):
            rows = order[start : start + 128]
            loss = F.cross_entropy(network(normalize(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return clock(loop)


def epoch(rounds: int) -> str:
    """One epoch of 60,000 images: ours against a bare Trainer and a hand-written loop."""
    from isometry.config.compose import compose
    from isometry.console import quiet

    quiet()
    data = synthetic_data()
    data.setup()
    lines = [
        "| depth | width | ours | bare Trainer | loop | ours/bare (≤ 1.05) | of it without "
        "measuring | ours/loop (≤ 1.25, 1.15 at 30) | bare/loop |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for depth in (10, 30):
        for width in (100, 300):
            overrides = [
                f"model.depth={depth}",
                f"model.width={width}",
                "activation=relu",
                "initializer=he_normal",
            ]
            more = [
                "trainer=cpu",
                "trainer.max_epochs=1",
                "trainer.limit_val_batches=0",
                "optimizer.lr=0.001",
            ]
            config = compose("train", [*overrides, *more])
            off = compose("train", [*overrides, *more, "callbacks.signals.every_n_steps=null"])
            train_ours(config, data)  # what is loaded once a process is not the epoch's
            loop, over = ratios(
                {
                    "loop": lambda c=config: train_by_hand(c, data),
                    "bare": lambda c=config: train_bare(c, data),
                    "ours": lambda c=config: train_ours(c, data),
                    "off": lambda c=off: train_ours(c, data),
                },
                rounds,
            )
            times = f"{over['ours'] * loop:.2f} s | {over['bare'] * loop:.2f} s | {loop:.2f} s"
            quotients = (
                f"{over['ours'] / over['bare']:.2f} | {over['off'] / over['bare']:.2f} | "
                f"{over['ours']:.2f} | {over['bare']:.2f}"
            )
            lines.append(f"| {depth} | {width} | {times} | {quotients} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def where_time_goes(rounds: int) -> str:
    """The steps of the smallest network of `epoch` under cProfile: self time by where the code
    stands.

    The profiler itself makes Python code slower, so shares of Python code are upper bounds.
    """
    import cProfile
    import pstats

    from isometry.config.compose import compose
    from isometry.console import quiet

    quiet()
    data = synthetic_data()
    data.setup()
    overrides = [
        "model.depth=10",
        "model.width=100",
        "activation=relu",
        "initializer=he_normal",
        "trainer=cpu",
    ]
    config = compose(
        "train",
        [*overrides, "trainer.max_epochs=1", "trainer.limit_val_batches=0", "optimizer.lr=0.001"],
    )
    train_ours(config, data)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(rounds):
        train_ours(config, data)
    profiler.disable()
    places = {
        "isometry/signals": "signals",
        "isometry/training/callbacks": "callbacks",
        "isometry/data": "loader",
        "isometry/runs": "files",
    }
    places |= {
        "isometry": "network, classifier",
        "lightning": "Lightning",
        "contextlib": "Lightning",
        "torch": "torch, in Python",
    }
    seconds: dict[str, float] = {}
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        built_in = (
            "torch kernels and autograd"
            if "torch" in name or "run_backward" in name
            else "Python's built-ins"
        )
        found = next((label for part, label in places.items() if part in file), "other")
        label = built_in if file == "~" else found
        seconds[label] = seconds.get(label, 0.0) + own
    total = sum(seconds.values())
    lines = ["| where | µs a step | share |", "|---|---|---|"]
    for label, value in sorted(seconds.items(), key=lambda item: -item[1]):
        lines.append(f"| {label} | {value / rounds / 468 * 1e6:.0f} | {value / total:.0%} |")
    return "\n".join(lines)


# ---- loader --------------------------------------------------------------------------------------


def loader(rounds: int) -> str:
    """Images per second of our loader against torchvision's Dataset in a DataLoader."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    data = synthetic_data()
    data.setup()
    images, labels = data.splits["train"]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for stem, count in (("train", 60_000), ("t10k", 10)):
            header = [0, 0, 8, 3, *np.array([count, 28, 28], dtype=">u4").tobytes()]
            (raw / f"{stem}-images-idx3-ubyte").write_bytes(
                bytes(header) + images[:count].numpy().tobytes()
            )
            header = [0, 0, 8, 1, *np.array([count], dtype=">u4").tobytes()]
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(
                bytes(header) + labels[:count].to(torch.uint8).numpy().tobytes()
            )
        transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        )
        dataset = datasets.MNIST(folder, train=True, transform=transform)
        ours = data.train_dataloader()

        def run_through(batches) -> None:
            for _ in batches:
                pass

        seconds = interleave(
            {
                "ours": lambda: clock(lambda: run_through(ours)),
                "torchvision, 0 workers": lambda: clock(
                    lambda: run_through(DataLoader(dataset, 128, shuffle=True))
                ),
                "torchvision, 2 workers": lambda: clock(
                    lambda: run_through(DataLoader(dataset, 128, True, num_workers=2))
                ),
            },
            rounds,
        )
    lines = ["| loader | images/s | ours is faster by (≥ 20) |", "|---|---|---|"]
    for name, value in seconds.items():
        lines.append(f"| {name} | {60_000 / value:,.0f} | {value / seconds['ours']:.0f} |")
    return "\n".join(lines)


# ---- start and memory ----------------------------------------------------------------------------

FIRST_STEP = """
import sys, time
from lightning.pytorch import Callback
import isometry.training.run as t
build = t.build_trainer
class Stop(Callback):
    def on_train_batch_end(self, *args): sys.stdout.flush(); import os; os._exit(0)
t.build_trainer = lambda c, r, l, cb: build(c, r, l, [*cb, Stop()])
from isometry.cli import main
sys.argv = ["isometry", "train", *sys.argv[1:]]
main()
"""


# a child begins with the peak of the process that forks it: this one forks, which is small
PEAK = """
import os, subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], **quiet).pid, 0)
print(usage.ru_maxrss)
sys.exit(bool(status))
"""


def process(command: list[str], folder: str) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a process."""
    started = time.perf_counter()
    watched = [sys.executable, "-S", "-c", PEAK, *command]
    peak = subprocess.run(watched, cwd=folder, capture_output=True, text=True, check=True).stdout
    return time.perf_counter() - started, int(peak) / 1024


def full_size_arguments(folder: str) -> list[str]:
    """A 60,000-image data set in `folder`, decoded already, and the arguments that train one epoch
    on it.
    """
    from isometry.data.cache import write

    write(Path(folder) / "data" / "mnist.safetensors", synthetic_data().images)
    return [
        "data=mnist",
        "data.val_size=500",
        "logger=csv",
        "trainer.max_epochs=1",
        "rerun=all",
        f"paths.runs={folder}/runs",
    ]


def start(rounds: int) -> str:
    """From the command to the first optimizer step, and a whole run of one epoch, against the
    imports alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = full_size_arguments(folder)
        isometry = str(Path(sys.executable).parent / "isometry")
        commands = {
            "imports": [sys.executable, "-c", IMPORTS],
            "to the first step": [
                sys.executable,
                "-c",
                FIRST_STEP,
                "logger=csv",
                f"paths.runs={folder}/runs",
                "rerun=all",
            ],
            "whole run, 60,000 images": [isometry, "train", *arguments],
        }
        process(commands["to the first step"], folder)  # decode the digits once, warm the disk
        seconds = interleave(
            {name: lambda c=c: process(c, folder)[0] for name, c in commands.items()}, rounds
        )
    target = {"imports": "", "to the first step": "1.3", "whole run, 60,000 images": "1.5"}
    lines = ["| process | seconds | over the imports | target |", "|---|---|---|---|"]
    for name, value in seconds.items():
        lines.append(
            f"| {name} | {value:.2f} | {value / seconds['imports']:.2f} | {target[name]} |"
        )
    return "\n".join(lines)


def memory(rounds: int) -> str:
    """Peak resident memory of a 60,000-image run against the imports plus the data."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = full_size_arguments(folder)
        isometry = str(Path(sys.executable).parent / "isometry")
        run = statistics.median(
            process([isometry, "train", *arguments], folder)[1] for _ in range(rounds)
        )
        imports = statistics.median(
            process([sys.executable, "-c", IMPORTS], folder)[1] for _ in range(rounds)
        )
    data = 61_000 * 28 * 28 / 2**20
    lines = ["| imports | data | peak of the run | ratio (≤ 1.3) |", "|---|---|---|---|"]
    lines.append(
        f"| {imports:.0f} MiB | {data:.0f} MiB | {run:.0f} MiB | {run / (imports + data):.2f} |"
    )
    return "\n".join(lines)


# ---- signals -------------------------------------------------------------------------------------


Step = Callable[[int], object]
"""The t-th step of a training."""


def signal_variants(network, x, labels) -> dict[str, Callable[[], Step]]:
    """For each way of measuring a training of `STEPS` plain steps, all on one network."""
    import torch
    from torch.nn import functional as F

    from isometry.layers.discover import layer_map
    from isometry.signals.norms import norms
    from isometry.signals.recorder import Recorder

    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    parameters = dict(network.named_parameters())

    def plain(before_update: Step = lambda t: None) -> Step:
        def step(t: int) -> None:
            optimizer.zero_grad()
            # held, with its graph, until the step is over: as in `ours`
            loss = F.cross_entropy(network(x), labels)
            loss.backward()
            before_update(t)
            optimizer.step()

        return step

    def replay() -> None:
        network(x)

    layers = layer_map(network, x)

    def ours(interval: int) -> Step:
        recorder = Recorder(network, layers, flush_every=STEPS)

        def step(t: int) -> None:
            optimizer.zero_grad()
            examples = x.shape[0]
            recorder.begin(t % interval == 0, examples, replay)
            loss = F.cross_entropy(network(x), labels)
            recorder.after_forward(loss)
            loss.backward()
            recorder.after_backward(1 / examples)
            recorder.before_update(t % interval == 0)
            optimizer.step()
            recorder.after_update(t % interval == 0)
            if recorder.full:
                recorder.flush()

        return step

    def gradients_only() -> Step:
        recorder = Recorder(network, layers, flush_every=STEPS)

        def measure(t: int) -> None:
            gradients, positions = recorder.weights.with_gradient()
            found = norms(gradients, recorder.device)
            recorder.buffer[t, 0].copy_(recorder.weights.norm_by_layer(found, positions))
            if t == STEPS - 1:
                recorder.buffer.cpu()

        return plain(measure)

    def item_loop(_: int) -> None:
        [parameter.grad.norm().item() for parameter in parameters.values()]

    composers = composers_monitor(network, optimizer)
    others = {} if composers is None else {COMPOSER: lambda: plain(composers)}
    return {
        "no measuring": plain,
        "ours, gradients only, every step": gradients_only,
        "ours, all columns, every step": lambda: ours(1),
        "ours, default interval (50)": lambda: ours(INTERVAL),
        ".item() loop": lambda: plain(item_loop),
        **others,
    }


COMPOSER = "composer OptimizerMonitor, every step"
"""Needs an environment of its own, or `pip install --no-deps --target FOLDER mosaicml py-cpuinfo
importlib_metadata coolname mosaicml-cli` and PYTHONPATH; left out where it is not installed."""


def composers_monitor(network, optimizer) -> Step | None:
    """Composer's callback at the end of a batch, its logger a dictionary."""
    try:
        from composer.callbacks import OptimizerMonitor
    except ImportError:
        return None
    from types import SimpleNamespace

    monitor = OptimizerMonitor(batch_log_interval=1)
    batch = SimpleNamespace(batch=SimpleNamespace(value=0))
    state = SimpleNamespace(
        timestamp=batch, model=network, optimizers=[optimizer], fsdp_enabled=False
    )
    logged: dict[str, float] = {}
    logger = SimpleNamespace(log_metrics=logged.update)
    return lambda _: monitor.batch_end(state, logger)


def by_step(variants: dict[str, Callable[[], Step]], rounds: int) -> dict[str, list[float]]:
    """Seconds of `STEPS` steps of each variant in each round.

    The variants take turns step by step: what else the machine does hits all of them. Each time in
    another order, because a step finds in the cache what the one before has left there; and for the
    same reason a step that is timed follows one that is not, of a second training of the same kind
    (half an interval ahead: it records at other steps), as it would in a training. On an
    accelerator, where a step is not over when its call returns, they take turns after `STEPS`
    steps.
    """
    names = list(variants)
    found = {name: [] for name in variants}
    order = random.Random(0)
    for _ in range(rounds):
        trainings = {name: (make(), make()) for name, make in variants.items()}
        seconds = dict.fromkeys(names, 0.0)
        for numbers in (
            [range(t, t + 1) for t in range(STEPS)] if DEVICE == "cpu" else [range(STEPS)]
        ):
            for name in order.sample(names, len(names)):
                timed, other = trainings[name]
                other((numbers.start + INTERVAL // 2) % STEPS)
                seconds[name] += clock(functools.partial(take, timed, numbers))
        for name in names:
            found[name].append(seconds[name])
    return found


def take(step: Step, numbers: range) -> None:
    """Some steps of a training."""
    for t in numbers:
        step(t)


INTERVAL = 50
"""The default interval of recording."""
STEPS = 200
"""Of a round: as many as there are from one flush to the next, by default."""
PEER_STEPS = 50
TARGETED = "MLP 30 x 100"
"""The network of the targets gets twice the rounds; those whose steps are long get fewer."""
RESNET = "ResNet-18, 32 x 32"
NETWORKS: list[str] = []
"""Beginnings of the names of those that are measured; all, if there is none."""


def signals(rounds: int) -> str:
    """Step-time ratio over no measuring, in a plain loop; then the peers inside a Trainer over a
    Trainer without them.
    """
    import torch
    import torchvision

    from isometry import activations
    from isometry.initializers import FanScaled
    from isometry.layers.discover import layer_map
    from isometry.networks.convnet import ConvNet
    from isometry.networks.mlp import MLP

    relu = activations.relu()
    he = FanScaled("fan_in", 2**0.5, "gaussian", 0.0)
    networks = {
        f"MLP {depth} x 100": MLP(
            (1, 28, 28), 10, relu, "none", depth, width=100, bias=True, dropout=0.0
        )
        for depth in (10, 30, 100)
    }
    shape = {"depth": 8, "channels": 16, "stages": 2, "channel_multiplier": 2}
    kernels = {"kernel_size": 3, "padding": "circular", "bias": True}
    networks["convnet 8 x 16"] = ConvNet((1, 28, 28), 10, relu, "none", **shape, **kernels)
    networks[RESNET] = torchvision.models.resnet18(num_classes=10)
    lines = []
    share = {TARGETED: 2.0, "convnet 8 x 16": 0.25, RESNET: 0.1}
    chosen = {
        name: network
        for name, network in networks.items()
        if not NETWORKS or name.startswith(tuple(NETWORKS))
    }
    for name, network in chosen.items():
        x = torch.randn(32, 3, 32, 32) if name == RESNET else torch.randn(128, 1, 28, 28)
        labels = torch.randint(0, 10, x.shape[:1]).to(DEVICE)
        # or signals of 100 layers are denormal numbers, and slow
        he(layer_map(network, x), torch.Generator().manual_seed(0))
        x = x.to(DEVICE)
        network.to(DEVICE)
        found = by_step(
            signal_variants(network, x, labels), math.ceil(share.get(name, 1.0) * rounds)
        )
        seconds, ratio = over_first(found)
        ratio |= peers(network, x, labels, 1 + rounds // 10) if "MLP" in name else {}
        if not lines:
            lines = [
                "| network | ms a step | " + " | ".join(ratio) + " |",
                "|---" * (len(ratio) + 2) + "|",
            ]
        lines.append(signals_row(name, seconds, ratio))
        if name == TARGETED:
            lines.append(
                signals_row(
                    f"{name}, fastest quarter of the rounds", *over_first(found, share=0.25)
                )
            )
            lines.append(spread_row(f"{name}, rounds from, to", found))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def signals_row(name: str, seconds: float, ratio: dict[str, float]) -> str:
    return (
        f"| {name} | {seconds / STEPS * 1e3:.2f} | "
        + " | ".join(f"{value:.2f}" for value in ratio.values())
        + " |"
    )


def spread_row(name: str, found: dict[str, list[float]]) -> str:
    """The least and the largest value over the rounds: ms a step, and each ratio."""
    first, *others = found
    each = [
        [found[other][i] / found[first][i] for i in range(len(found[first]))] for other in others
    ]
    cells = [
        f"{min(values):.2f}, {max(values):.2f}"
        for values in ([s / STEPS * 1e3 for s in found[first]], *each)
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def peers(network, x, labels, rounds: int) -> dict[str, float]:
    """`wandb.watch` in the plain loop, and Lightning's `grad_norm` as its documentation shows it,
    in a Trainer.

    The Trainer's time is divided by that of the same Trainer without `grad_norm`, the loop's by
    that of the plain loop.
    """
    import logging

    import torch
    import wandb
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.utilities import grad_norm
    from torch.nn import functional as F

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    plain = signal_variants(network, x, labels)["no measuring"]()

    class Module(LightningModule):
        def __init__(self, measured: bool):
            super().__init__()
            self.network = network
            self.measured = measured

        def training_step(self, batch, index):
            return F.cross_entropy(self.network(x), labels)

        def on_before_optimizer_step(self, optimizer):
            if self.measured:
                self.log_dict(grad_norm(self.network, norm_type=2))

        def configure_optimizers(self):
            return torch.optim.SGD(self.network.parameters(), lr=1e-4)

    def in_trainer(measured: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            off = {
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
            }
            off |= {"logger": CSVLogger(folder), "accelerator": DEVICE, "devices": 1}
            trainer = Trainer(max_steps=PEER_STEPS, log_every_n_steps=1, **off)
            loader = torch.utils.data.DataLoader(list(range(PEER_STEPS)))
            module = Module(measured).to(DEVICE)
            return clock(lambda: trainer.fit(module, loader))

    def watched() -> float:
        with tempfile.TemporaryDirectory() as folder:
            run = wandb.init(
                mode="offline", dir=folder, settings=wandb.Settings(silent=True, console="off")
            )
            run.watch(network, log="gradients", log_freq=1)
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

            def steps() -> None:
                for t in range(PEER_STEPS):
                    optimizer.zero_grad()
                    F.cross_entropy(network(x), labels).backward()
                    optimizer.step()
                    run.log({"t": t})

            seconds = clock(steps)
            run.unwatch(network)
            run.finish()
            return seconds

    _, of_trainer = ratios(
        {"without": lambda: in_trainer(False), "with": lambda: in_trainer(True)}, rounds
    )
    network.to(DEVICE)  # Lightning has left it on the CPU
    _, of_loop = ratios(
        {"plain": lambda: clock(lambda: take(plain, range(PEER_STEPS))), "watch": watched}, rounds
    )
    return {
        "Lightning grad_norm + log_dict": of_trainer["with"],
        "wandb.watch, log_freq=1": of_loop["watch"],
    }


# ---- sweep ---------------------------------------------------------------------------------------

LAUNCHERS = {
    "pool": [],
    "Hydra's basic launcher": ["hydra/launcher=basic"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"],
}
"""Our launcher and the others; those that are not installed are left out (pip install -e
'.[launchers]').
"""


def sweep(rounds: int) -> str:
    """32 runs of about 3 s of training on the CPU: wall time of the whole command, by launcher."""
    import json

    slots = os.cpu_count() or 1
    isometry = str(Path(sys.executable).parent / "isometry")
    rows = []
    failed = []
    ideal = 0.0
    for name, choice in LAUNCHERS.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = [
                "seed=range(32)",
                "model.depth=20",
                "trainer=cpu",
                "trainer.max_epochs=20",
                "threads=1",
            ]
            quiet = [
                "logger=none",
                "pictures=false",
                f"paths.runs={folder}/runs",
                f"paths.data={folder}/data",
                "study_name=s",
            ]
            warm = [
                "trainer.max_steps=1",
                f"paths.runs={folder}/warm",
                f"paths.data={folder}/data",
                "logger=none",
            ]
            process([isometry, "train", *warm], folder)
            try:
                seconds, _ = process([isometry, "train", "-m", *runs, *quiet, *choice], folder)
            except RuntimeError as error:
                print(f"{name} is not installed, or failed: {str(error)[-300:]}", flush=True)
                ended = sum(1 for _ in Path(folder).glob("runs/s/*/summary.json"))
                failed.append(f"| {name} | failed with {ended} of 32 runs finished | | | |")
                continue
            training = [
                json.loads(path.read_text())["wall_seconds"]
                for path in Path(folder).glob("runs/s/*/summary.json")
            ]
            assert len(training) == 32, f"{name}: {len(training)} of 32 runs"
            ideal = ideal or sum(training) / slots
            rows.append((name, seconds, statistics.mean(training)))
            print(rows[-1], flush=True)
    lines = [
        (
            "| launcher | wall | training of one run | wall over the ideal "
            "| after the first 6 s (≤ 1.15) |"
        ),
        "|---|---|---|---|---|",
    ]
    lines.append(
        f"| ideal: Σ training of the pool's runs / {slots} slots | {ideal:.1f} s | | 1.00 | |"
    )
    for name, seconds, each in rows:
        lines.append(
            f"| {name} | {seconds:.1f} s | {each:.2f} s | {seconds / ideal:.2f} | "
            f"{(seconds - 6) / ideal:.2f} |"
        )
    return "\n".join([*lines, *failed])


def thousand(rounds: int) -> str:
    """A sweep of 1,000 jobs that are all finished: composing and deciding, and the whole
    command.
    """
    import json
    import shutil

    isometry = str(Path(sys.executable).parent / "isometry")
    with tempfile.TemporaryDirectory() as folder:
        common = [
            "model.depth=3",
            "trainer=cpu",
            "trainer.max_steps=2",
            "logger=none",
            "pictures=false",
            "study_name=s",
        ]
        common += [f"paths.runs={folder}/runs", f"paths.data={folder}/data"]
        process([isometry, "train", "-m", *common, "seed=0,1"], folder)
        (run, *_) = sorted(Path(folder).glob("runs/s/mlp*"))
        ids = subprocess.run(
            [sys.executable, "-c", IDS, *common],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for name in ids:
            if not (run.parent / name).exists():
                shutil.copytree(run, run.parent / name)
        assert json.loads((run / "status.json").read_text())["state"] == "finished"
        seconds, _ = process([isometry, "train", "-m", *common, "seed=range(1000)"], folder)
        report, _ = process(
            [isometry, "report", "study_name=s", f"paths.runs={folder}/runs"], folder
        )
    lines = [
        "| 1,000 finished jobs | seconds |",
        "|---|---|",
        f"| the whole command (≤ 25) | {seconds:.1f} |",
    ]
    return "\n".join(
        [*lines, f"| of which the report of the study, with its imports | {report:.1f} |"]
    )


IDS = """
import sys
from isometry.config.compose import compose, resolved
from isometry.runs.identity import run_id
config = resolved(compose("train", sys.argv[1:]))
for seed in range(1000):
    print(run_id({**config, "seed": seed, "data": {**config["data"], "seed": seed}}))
"""


# ---- wandb ---------------------------------------------------------------------------------------


class Turns:
    """Trainings in threads of one process that take turns: what else the machine does hits all of
    them.

    Attributes:
        seconds: of each, while it had its turn.
    """

    def __init__(self, *names: str):
        self.waiting = collections.deque(names)
        self.seconds = dict.fromkeys(names, 0.0)
        self.change = threading.Condition()

    def take(self, name: str) -> None:
        """Wait for a turn."""
        with self.change:
            self.change.wait_for(lambda: self.waiting[0] == name)
        self.started = time.perf_counter()

    def leave(self, name: str, for_good: bool = False) -> None:
        """End a turn."""
        self.seconds[name] += time.perf_counter() - self.started
        with self.change:
            self.waiting.popleft()
            if not for_good:
                self.waiting.append(name)
            self.change.notify_all()


def in_turns(
    turns: Turns, name: str, overrides: list[str], folder: str
) -> tuple[threading.Thread, Callable[[], None]]:
    """A thread that fits a config in turns of 10 steps, and what closes its loggers; building is
    done, and not in the time.
    """
    import torch
    from lightning.pytorch import Callback

    from isometry.config.compose import compose, resolved
    from isometry.console import quiet
    from isometry.runs.directory import RunDirectory
    from isometry.runs.signal_store import SignalStore
    from isometry.training.build import build_classifier, build_data, build_network
    from isometry.training.callbacks import Signals, Throughput
    from isometry.training.loggers import build_loggers
    from isometry.training.loggers.build import close_loggers, start_loggers
    from isometry.training.run import build_trainer

    class Turn(Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            if trainer.global_step % 10 == 0:
                turns.leave(name)
                turns.take(name)

    quiet()
    threads = torch.get_num_threads()
    config = compose("train", [*overrides, f"paths.data={folder}/data"])
    run = RunDirectory(Path(folder) / "study" / name)
    run.begin("")
    loggers = build_loggers(run, 1, {}, **resolved(config)["logger"])
    signals = Signals(
        store=SignalStore(run.signals),
        initial_weights=run.initial_weights,
        **resolved(config.callbacks.signals),
    )
    trainer = build_trainer(config, run, loggers, [signals, Throughput(), Turn()])
    data = build_data(config)
    classifier = build_classifier(config, build_network(config, data.input_shape, data.num_classes))
    start_loggers(loggers)

    def fit() -> None:
        torch.set_num_threads(threads)  # OpenMP counts them by thread
        turns.take(name)
        try:
            trainer.fit(classifier, data)
        finally:
            turns.leave(name, for_good=True)

    return threading.Thread(target=fit), lambda: close_loggers(loggers, {}, failed=False)


def cpu_of_children() -> float:
    """CPU seconds of the processes that this one has started, W&B's among them."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) if int(fields[1]) == os.getpid() else 0
    return total / os.sysconf("SC_CLK_TCK")


def wandb_cost(rounds: int) -> str:
    """500 steps of a 100-layer network with `logger=wandb` at the default interval, against no
    measuring and no logger: `fit` in turns of 10 steps, without the start and the end of W&B's
    process. Round 0 also loads what is loaded once a process."""
    network = [
        "model.depth=100",
        "model.width=100",
        "activation=relu",
        "initializer=he_normal",
        "optimizer.lr=1e-4",
    ]
    found = [
        one_round_of_wandb([*network, "trainer=cpu", "trainer.max_steps=500"])
        for _ in range(1 + rounds)
    ]
    shares = [1 - off / on for off, on, _ in found]
    off, on, own = (statistics.median(values) for values in zip(*found[1:], strict=True))
    header = (
        "| network | steps | nothing measured or logged | default interval, W&B | share of the "
        "time (< 5 %) | rounds from, to "
    )
    header += "| with what is loaded once a process | CPU of W&B's own process |"
    row = f"| MLP 100 x 100 | 500 | {off:.2f} s | {on:.2f} s | {statistics.median(shares[1:]):.1%} "
    row += f"| {min(shares[1:]):.1%}, {max(shares[1:]):.1%} | {shares[0]:.1%} | {own:.2f} s |"
    return "\n".join([header, "|---" * 8 + "|", row])


def one_round_of_wandb(common: list[str]) -> tuple[float, float, float]:
    """Seconds without and with measuring and W&B, and CPU seconds of W&B's process meanwhile."""
    from unittest import mock

    turns = Turns("off", "on")
    # Python sets signal handlers in the main thread only
    with tempfile.TemporaryDirectory() as folder, mock.patch("signal.signal"):
        trainings = [
            in_turns(
                turns,
                "off",
                [*common, "logger=none", "callbacks.signals.every_n_steps=null"],
                folder,
            ),
            in_turns(turns, "on", [*common, "logger=wandb"], folder),
        ]
        before = cpu_of_children()
        for thread, _ in trainings:
            thread.start()
        for thread, _ in trainings:
            thread.join()
        own = cpu_of_children() - before
        for _, close in trainings:
            close()
    print(turns.seconds, flush=True)
    return turns.seconds["off"], turns.seconds["on"], own


# ---- comparing runs ------------------------------------------------------------------------------


def comparing(rounds: int) -> str:
    """`isometry compare` on 500 runs of 20 layers: 100 configurations, 50 recorded steps."""
    isometry = str(Path(sys.executable).parent / "isometry")
    with tempfile.TemporaryDirectory() as folder:
        write_five_hundred(Path(folder) / "runs" / "many")
        commands = {
            "table, figures, documents": ["html=false"],
            "and the page": ["html=true"],
        }
        variants = {
            name: functools.partial(seconds_of, [isometry, "compare", "many", *words], folder)
            for name, words in commands.items()
        }
        found = interleave(variants, rounds)
        size = (Path(folder) / "runs" / "many" / "compare.html").stat().st_size / 1e6
    lines = [f"| {name} | {value:.1f} |" for name, value in found.items()]
    return "\n".join(["| | seconds |", "|---|---|", *lines, f"| the page, MB | {size:.1f} |"])


def seconds_of(command: list[str], folder: str) -> float:
    """Wall seconds of a process."""
    return process(command, folder)[0]


def write_five_hundred(study: Path) -> None:
    """The runs, written without training as tests do."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
    from studies import signals_of, write_study

    columns = {"saturation": 0.1, "displacement": 0.2, "activation_var": 0.3, "update_ratio": 1e-3}
    rows = signals_of(range(0, 1000, 20), 20, lambda s, k: 0.9 ** (20 - k) * (1 + s), **columns)
    generator = random.Random(0)

    def measure(values):
        return {"test_accuracy": generator.random(), "gradient_rate_init": 1.1}, rows

    scales = [0.5 + index / 20 for index in range(20)]
    grid = {"initializer.sigma_w": scales, "model.width": [16, 32, 64, 128, 256], "seed": range(5)}
    lines = "".join(f"{step},{2 - step / 1000},{step / 1000}\n" for step in range(0, 1000, 50))
    for run in write_study(study, grid, measure):
        run.metrics.write_text(f"step,train_loss,val_accuracy\n{lines}")


# ---- the document --------------------------------------------------------------------------------

SECTIONS: dict[str, tuple[Callable[[int], str], str, int]] = {
    "epoch": (
        epoch,
        "One epoch of 60,000 images, batch 128, signals at the default interval",
        7,
    ),
    "profile": (
        where_time_goes,
        "Where the time of a training step goes (10 layers of 100 units, cProfile)",
        3,
    ),
    "loader": (loader, "Loader: images per second to the training loop", 3),
    "start": (start, "Start: wall time of processes", 5),
    "memory": (memory, "Memory: peak resident size", 3),
    "sweep": (sweep, "A sweep of 32 runs on two cores, by launcher", 1),
    "thousand": (thousand, "Running a finished sweep of 1,000 jobs again", 1),
    "wandb": (
        wandb_cost,
        "Measuring and logging of 500 steps with `logger=wandb`, default interval",
        5,
    ),
    "comparing": (comparing, "Comparing 500 runs of 20 layers", 2),
    "signals": (
        signals,
        "Measuring: step time over no measuring (targets at 30 x 100: 1.06, 2.00, 1.05; ResNet-18, "
        "all columns: 1.30, default: 1.03)",
        6,
    ),
}


REMARKS = {
    "sweep": """submitit_local starts all jobs at once: 32 processes of about 0.9 GiB each, on two
cores.""",
    "epoch": """The targets are missed by what measuring costs: without it ours is the bare
Trainer. Most of it is the watch for non-finite numbers, which reads every weight gradient once a
step so that a divergence has an exact step and layer; the rest are the recorded steps and the
files. Over the hand-written loop stands, by the profile below, also Lightning's own loop (hooks,
profiler contexts, progress objects: 0.5 to 1 ms a step, also in the bare Trainer). What was tried
and is in: all callbacks as one to Lightning (its hooks cost per callback, overridden or not), no
`self.log` in a step, logits counted 32 batches at a time, Lightning's note of the running hook set
past `nn.Module.__setattr__`, flushes every 200 steps.""",
    "signals": """Medians over the rounds, each variant against no measuring in the same round;
for ours and the `.item()` loop a round is 200 steps, from one flush to the next, in which the
variants take turns step by step, each timed step behind one of the same kind that is not timed
(on an accelerator they take turns after the 200). The peers' units: Lightning's against the same
Trainer without `grad_norm`, `wandb.watch` against the plain loop. The machine is shared: its
speed changes between rounds by up to a factor of two, and a faster step makes the same small
overheads (calls from Python, reading memory) a larger share.

What is left over the target of the default interval is the watch: every weight gradient is read
once a step, when the backward pass is over, so that a divergence has its step and its layer.
Torch's norm of all gradients at once (`torch.nn.utils.get_total_norm`) was tried: it takes as long,
and squares in float32.""",
}


def machine() -> str:
    """What the numbers were measured on."""
    import torch

    accelerator = f", {gpu()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores of {cpu()}{accelerator}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def cpu() -> str:
    """The processor's name."""
    model = (
        re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    return model.group(1) if model else platform.processor()


def gpu() -> str:
    """The accelerator's name."""
    import torch

    return str(torch.cuda.get_device_name())


BY_PROCESSOR = frozenset({"signals", "wandb"})
"""Sections with a table for each processor: these ratios depend on how fast it is."""


def write(name: str, title: str, table: str, rounds: int) -> None:
    """Replace a section of the document, or add it."""
    from isometry.runs.provenance import git_commit

    today = datetime.date.today().isoformat()
    device = "" if DEVICE == "cpu" else f" --device {DEVICE}"
    where = f" on {cpu() if DEVICE == 'cpu' else gpu()}" if name in BY_PROCESSOR else ""
    chosen = "".join(f' "{network}"' for network in NETWORKS)
    only = f" --networks{chosen}" if chosen else ""
    command = f"`python scripts/benchmark.py {name} --rounds {rounds}{device}{only}`"
    body = (
        f"## {title}{where}\n\n{command}, {today}, {machine()}, commit {git_commit()}.\n\n{table}\n"
    )
    body += f"\n{REMARKS[name]}\n" if name in REMARKS else ""
    begin = f"<!-- {name}{where} -->\n"
    end = f"<!-- end of {name}{where} -->\n"
    text = (
        DOCUMENT.read_text()
        if DOCUMENT.exists()
        else "# Benchmarks\n\nWritten by `scripts/benchmark.py`.\n"
    )
    section = f"{begin}{body}{end}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = pattern.sub(lambda _: section, text) if begin in text else f"{text}\n{section}"
    DOCUMENT.write_text(text)


def main() -> None:
    """Run the named sections."""
    global DEVICE
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    parser.add_argument(
        "--rounds", type=int, help="rounds of interleaved measurement; the fastest counts"
    )
    parser.add_argument(
        "--device", default=DEVICE, choices=["cpu", "cuda"], help="where `signals` trains"
    )
    parser.add_argument(
        "--networks", nargs="+", default=[], help="how the networks of `signals` begin"
    )
    arguments = parser.parse_args()
    if arguments.networks and arguments.sections != ["signals"]:
        parser.error("--networks is for signals alone")
    NETWORKS[:] = arguments.networks
    if arguments.device != "cpu" and set(arguments.sections) != {"signals"}:
        parser.error("--device is for signals alone")
    DEVICE = arguments.device
    warnings.simplefilter("ignore")
    for name in arguments.sections:
        function, title, rounds = SECTIONS[name]
        rounds = arguments.rounds or rounds
        table = function(rounds)
        print(f"{title}\n{table}\n")
        write(name, title, table, rounds)


if __name__ == "__main__":
    main()
