"""Every check that only a machine with GPUs can make, in one command, as a table.

    python scripts/gpu_acceptance.py [--steps 20]

Each check trains a small network through `isometry train` and compares its stored signals with the
same run on the CPU, or counts what the device was asked to do. Exit code 1 unless all pass; a check
that needs more GPUs than there are is skipped by name. Takes about ten minutes on one GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from isometry import activations
from isometry.columns import MEASURED
from isometry.layers.discover import layer_map
from isometry.networks.mlp import MLP
from isometry.signals.recorder import Recorder
from isometry.training.scaling import gradient_scale, loss_scale

ISOMETRY = str(Path(sys.executable).parent / "isometry")
COMMON = [
    "model.depth=10",
    "activation=tanh",
    "callbacks.signals.every_n_steps=1",
    "logger=csv",
    "pictures=false",
]
COLUMNS = [
    *("backprop_norm", "weight_grad_norm", "weight_grad_norm_clipped", "bias_grad_norm"),
    *("forward_second_moment", "sample_weight_grad_rms", "preactivation_var"),
]
DEVICE = "cuda"


class Skip(Exception):
    """The machine lacks what a check needs."""


def command_of(folder: Path, *overrides: str) -> list[str]:
    """The command line; a check's own overrides come last, and win."""
    flags = [word for word in overrides if word.startswith("-")]
    return [
        ISOMETRY,
        "train",
        *flags,
        *COMMON,
        f"paths.runs={folder}",
        *(word for word in overrides if word not in flags),
    ]


def train(folder: Path, *overrides: str, code: int = 0, interrupt: bool = False) -> list[Path]:
    """`isometry train`, to be ended by an exit code; the run directories below `folder`, by name.

    With `interrupt` it gets a Ctrl-C as soon as it has stored signals.
    """
    command = command_of(folder, *overrides)
    exact = {
        key: value for key, value in os.environ.items() if key != "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
    }
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=exact
    )
    while interrupt and process.poll() is None:
        if list(folder.glob("*/*/signals.parquet/*.parquet")):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=600)
    if process.returncode != code:
        raise RuntimeError(
            f"exit code {process.returncode}, not {code}: "
            f"{(errors.strip().splitlines() or [''])[-1]}"
        )
    return sorted(path.parent for path in folder.glob("*/*/status.json"))


def signals_of(run: Path) -> pd.DataFrame:
    """Of a finished run, by step and layer."""
    state = json.loads((run / "status.json").read_text())["state"]
    assert state == "finished", state
    return pd.read_parquet(run / "signals.parquet").sort_values(
        ["step", "layer"], ignore_index=True
    )


def run(folder: Path, *overrides: str) -> pd.DataFrame:
    """Train and return the signals by step and layer."""
    (path,) = train(
        folder / f"{len(list(folder.iterdir()))}", f"trainer.max_steps={STEPS}", *overrides
    )
    return signals_of(path)


def gap(a: pd.DataFrame, b: pd.DataFrame, steps: int) -> float:
    """Largest relative difference of the columns over the first steps; what one run lacks, the
    other must lack.
    """
    a, b = (frame[frame.step < steps][COLUMNS].to_numpy(float) for frame in (a, b))
    assert (np.isnan(a) == np.isnan(b)).all(), "numbers are missing on one side"
    with np.errstate(invalid="ignore"):
        return float(np.nanmax(np.abs(a / b - 1)))


def within(a: pd.DataFrame, b: pd.DataFrame, steps: int, bound: float) -> str:
    found = gap(a, b, steps)
    assert found <= bound, f"differs by {found:.1e}, allowed {bound:.0e}"
    return f"differs by {found:.1e} (allowed {bound:.0e})"


def double_precision(folder: Path) -> str:
    """64 bit: the device's numbers are the CPU's"""
    precise = "trainer.precision=64-true"
    return within(
        run(folder, "trainer=gpu", precise), run(folder, "trainer=cpu", precise), STEPS, 1e-9
    )


def single_precision(folder: Path) -> str:
    """32 bit: step 0 is the CPU's to 1e-4"""
    return within(run(folder, "trainer=gpu"), run(folder, "trainer=cpu"), 1, 1e-4)


def half_precision(folder: Path, precision: str, bound: float) -> str:
    return within(
        run(folder, "trainer=gpu", f"trainer.precision={precision}"),
        run(folder, "trainer=cpu"),
        1,
        bound,
    )


def float16(folder: Path) -> str:
    """fp16 with a GradScaler: step 0 is unscaled"""
    return half_precision(folder, "16-mixed", 0.05)


def float16_fused(folder: Path) -> str:
    """fp16 with a GradScaler and a fused optimizer: step 0 is unscaled"""
    fused = ["optimizer=adam", "+optimizer.fused=true"]
    a = run(folder, "trainer=gpu", "trainer.precision=16-mixed", *fused)
    return within(a, run(folder, "trainer=cpu", "optimizer=adam"), 1, 0.05)


def skipped(folder: Path) -> str:
    """fp16: an overflow is a skipped step and no divergence, for plain and fused optimizers"""
    scales = [skip_one(fused) for fused in (False, True)]
    return "loss scale after it " + " and ".join(f"{scale:g}" for scale in scales)


def skip_one(fused: bool) -> float:
    """One step whose gradients overflow; the loss scale after it."""
    network, x, labels = small_network(depth=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler(DEVICE, 2.0**40)
    layers = layer_map(network, x)
    recorder = Recorder(network, layers, flush_every=2, skips_overflow=True)
    recorder.begin(True, len(x))
    with torch.autocast(DEVICE, torch.float16):
        loss = scaler.scale(F.cross_entropy(network(x), labels))
    recorder.after_forward(loss)
    loss.backward()
    recorder.after_backward(loss_scale(scaler) / 128)
    if not fused:
        scaler.unscale_(optimizer)
    recorder.before_update(True, gradient_scale(scaler, optimizer))
    recorder.after_clipping(True)
    scaler.step(optimizer)
    scaler.update()
    recorder.after_update(True)
    flush = recorder.flush()
    assert flush.divergence is None, flush.divergence
    assert flush.values[0, MEASURED.index("nonfinite")].sum() > 0, "no gradient overflowed"
    assert (flush.values[0, MEASURED.index("update_norm")] == 0).all(), (
        "a skipped step moved weights"
    )
    return float(scaler.get_scale())


def small_network(
    depth: int, normalization: str = "none", bias: bool = True
) -> tuple[MLP, torch.Tensor, torch.Tensor]:
    """An MLP on the device, images and labels."""
    torch.manual_seed(0)
    network = MLP((1, 28, 28), 10, activations.tanh(), normalization, depth, 100, bias, 0.0).to(
        DEVICE
    )
    return (
        network,
        torch.randn(128, 1, 28, 28, device=DEVICE),
        torch.zeros(128, dtype=torch.long, device=DEVICE),
    )


def clipped(folder: Path) -> str:
    """clipping by norm, Nesterov's momentum (which computes in the gradients' memory): before and
    after are the CPU's
    """
    words = [
        "trainer.precision=64-true",
        "trainer.gradient_clip_val=0.01",
        "optimizer.momentum=0.9",
        "+optimizer.nesterov=true",
    ]
    return within(
        run(folder, "trainer=gpu", *words), run(folder, "trainer=cpu", *words), STEPS, 1e-9
    )


def checkpointed(folder: Path) -> str:
    """activation checkpointing (on the steps that are not recorded): the same numbers"""
    words = ["trainer=gpu", "trainer.precision=64-true", "callbacks.signals.every_n_steps=3"]
    return within(
        run(folder, *words, "activation_checkpointing=true"), run(folder, *words), STEPS, 1e-9
    )


def bfloat16(folder: Path) -> str:
    """bf16: step 0 to its precision"""
    return half_precision(folder, "bf16-mixed", 0.2)


def compiled(folder: Path) -> str:
    """torch.compile: the same numbers"""
    return within(run(folder, "trainer=gpu", "compile=true"), run(folder, "trainer=gpu"), 1, 1e-3)


def one_process(folder: Path) -> str:
    """DDP in one process (nccl starts, and sums gradients): the numbers without it"""
    precise = "trainer.precision=64-true"
    a = run(folder, "trainer=ddp", "trainer.accelerator=gpu", "trainer.devices=1", precise)
    return within(a, run(folder, "trainer=gpu", precise), STEPS, 1e-9)


def data_parallel(folder: Path) -> str:
    """DDP with nccl on two GPUs: the numbers of one"""
    if torch.cuda.device_count() < 2:
        raise Skip("needs 2 GPUs")
    precise = "trainer.precision=64-true"
    return within(
        run(folder, "trainer=ddp", "trainer.devices=2", precise),
        run(folder, "trainer=gpu", precise),
        STEPS,
        1e-9,
    )


DOUBLE = ["trainer=gpu", "trainer.precision=64-true"]


def resumed(folder: Path) -> str:
    """stopped by Ctrl-C in the middle of an epoch and resumed: the numbers of the undisturbed
    run
    """
    words = [*DOUBLE, f"trainer.max_steps={LONG}", "data.augmentation=crop_flip", "optimizer=adam"]
    words += ["callbacks.signals.every_n_steps=7", "callbacks.signals.flush_every=20"]
    (whole,) = train(folder / "whole", *words)
    train(folder / "cut", *words, code=130, interrupt=True)
    (cut,) = train(folder / "cut", *words)
    return within(signals_of(cut), signals_of(whole), LONG + 1, 1e-9)


def swept(folder: Path) -> str:
    """a sweep of two jobs at once on one GPU: the numbers of each alone"""
    words = [*DOUBLE, f"trainer.max_steps={STEPS}", "hydra.launcher.jobs_per_device=2"]
    together = train(folder / "sweep", "-m", *words, "seed=0,1")
    alone = [train(folder / f"alone {seed}", *words[:-1], f"seed={seed}")[0] for seed in (0, 1)]
    assert [path.name for path in together] == [path.name for path in alone], "other runs"
    pairs = zip(together, alone, strict=True)
    return " and ".join(within(signals_of(a), signals_of(b), STEPS, 1e-9) for a, b in pairs)


def diverged(folder: Path) -> str:
    """an explosion has the step and the layer that it has on the CPU"""
    words = [
        "trainer.precision=64-true",
        "activation=relu",
        "initializer=normal",
        "optimizer.lr=10",
        "trainer.max_steps=20",
    ]
    ends = [
        train(folder / name, f"trainer={name}", *words)[0] / "divergence.json"
        for name in ("gpu", "cpu")
    ]
    gpu, cpu = (json.loads(path.read_text()) for path in ends)
    keys = ("kind", "step", "layer", "batch")
    assert [gpu[key] for key in keys] == [cpu[key] for key in keys], (
        f"{gpu} on the GPU, {cpu} on the CPU"
    )
    return f"{gpu['kind']}, step {gpu['step']}, layer {gpu['layer']}"


def evaluated(folder: Path) -> str:
    """`isometry eval` of a run's checkpoint: the accuracy that the run had"""
    (path,) = train(folder / "run", "trainer=gpu", f"trainer.max_steps={STEPS}")
    expected = json.loads((path / "summary.json").read_text())["test_accuracy"]
    done = subprocess.run(
        [ISOMETRY, "eval", str(path), "checkpoint=last"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout)["test_accuracy"]
    # a few of the 1,000s of sums may be rounded otherwise
    assert abs(found - expected) < 1e-3, f"{found}, not {expected}"
    return f"accuracy {found:.3f}"


def no_synchronization(folder: Path) -> str:
    """no step waits for the device (CUDA's own sync debug mode); nor with a frozen layer, without
    biases, accumulating
    """
    for options in ({}, {"bias": False}, {"normalization": "batch"}):
        never_waits(small_network(30, **options), accumulated=1)
    frozen = small_network(30)
    frozen[0].layers[3].requires_grad_(False)
    never_waits(frozen, accumulated=2)
    return "none in 4 steps of 4 networks"


def never_waits(built: tuple[MLP, torch.Tensor, torch.Tensor], accumulated: int) -> None:
    """Train some steps, every other one recorded, where CUDA raises if the host waits."""
    network, x, labels = built
    recorder = Recorder(network, layer_map(network, x), flush_every=8)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.01)
    try:
        for index in range(6):
            # the first steps allocate
            torch.cuda.set_sync_debug_mode("error" if index >= 2 else "default")
            recorded = index % 2 == 0
            optimizer.zero_grad()
            for _ in range(accumulated):
                recorder.begin(recorded, len(x))
                loss = F.cross_entropy(network(x), labels)
                recorder.after_forward(loss)
                loss.backward()
                recorder.after_backward(1 / 128)
            recorder.before_update(recorded)
            recorder.after_clipping(recorded)
            optimizer.step()
            recorder.after_update(recorded)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(recorder.flush().values[:, MEASURED.index("weight_norm")]).all()


def vanishing(folder: Path) -> str:
    """sigmoid, 40 layers: gradients below 1e-20 are numbers"""
    frame = run(folder, "trainer=gpu", "activation=sigmoid", "model.depth=40")
    first = frame[(frame.step == 0) & (frame.layer == 1)].backprop_norm.item()
    assert 0 < first < 1e-20, first
    return f"backprop_norm of layer 1 is {first:.1e}"


CHECKS: list[Callable[[Path], str]] = [
    double_precision,
    single_precision,
    float16,
    float16_fused,
    bfloat16,
    clipped,
    checkpointed,
    compiled,
    vanishing,
    one_process,
    data_parallel,
    resumed,
    swept,
    diverged,
    evaluated,
    # in this process, and last: from then on it holds a GPU, which may be for one process at a time
    skipped,
    no_synchronization,
]


def judge(check: Callable[[Path], str]) -> tuple[str, str]:
    """PASS, FAIL or SKIP, and a word about it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return "PASS", check(Path(folder))
        except Skip as reason:
            return "SKIP", str(reason)
        except Exception as error:
            if not isinstance(error, AssertionError | RuntimeError):
                traceback.print_exc()
            return "FAIL", f"{type(error).__name__}: {error}"


STEPS = 20
LONG = 1000
"""Optimizer steps of a training that is to be stopped before its end."""


def title_of(check: Callable[..., str]) -> str:
    """A check's docstring as one line."""
    return " ".join((check.__doc__ or "").split())


def main() -> int:
    """Run all checks and print the table."""
    global STEPS
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of each training")
    STEPS = parser.parse_args().steps
    if not torch.cuda.is_available():
        print("no GPU that torch can use is visible: nothing was checked", file=sys.stderr)
        return 2
    print(
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, torch {torch.__version__}\n"
    )
    print("| check | result | |\n|---|---|---|")
    results = []
    for check in CHECKS:
        result, words = judge(check)
        results.append(result)
        print(f"| {title_of(check)} | {result} | {words} |", flush=True)
    return int("FAIL" in results)


if __name__ == "__main__":
    sys.exit(main())
