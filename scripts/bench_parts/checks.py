"""Fills in the defaults of the command line that depend on the machine, and refuses options that cannot work."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from scripts.bench_parts.plan import CONTEXTS, WARMUP_STEPS

CONTEXT_LIMIT = CONTEXTS[0]


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the machine, and end with an error if options cannot work."""
    arguments.accelerator = accelerator_of(parser, arguments.accelerator)
    faults = [*faults_of_values(arguments), *faults_of_devices(arguments), *faults_of_modes(arguments)]
    if faults:
        parser.error(faults[0])
    if arguments.flops_only:
        arguments.batch_size = arguments.batch_size or 2
        arguments.context_length = arguments.context_length or CONTEXT_LIMIT
    elif arguments.accelerator == "cuda" and arguments.batch_size is None:
        arguments.batch_size = "auto"


def accelerator_of(parser: argparse.ArgumentParser, name: str) -> str:
    """Returns the accelerator to use, with "auto" resolved; refuses one that this machine does not have."""
    current = torch.accelerator.current_accelerator(check_available=True)
    available = "cpu" if current is None else current.type
    if name not in ("auto", "cpu", available):
        parser.error(f"--accelerator {name}: this machine has none; give cpu or auto")
    return available if name == "auto" else name


def faults_of_values(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields what is wrong with single values."""
    context, steps = arguments.context_length, arguments.max_steps
    if context is not None and not 1 <= context <= CONTEXT_LIMIT:
        yield f"--context-length {context}: give 1 to {CONTEXT_LIMIT}, the models' context"
    if steps is not None and steps <= WARMUP_STEPS:
        yield f"--max-steps {steps}: give at least {WARMUP_STEPS + 1}; the first are warm-up"
    if arguments.budget is not None and arguments.batch_size != "auto" and not arguments.as_notebook:
        yield "--budget: is for --batch-size auto; give both, or neither"
    if (Path(arguments.output) / "bench.json").exists():
        yield f"--output {arguments.output}: holds the results of another run; give another directory"


def faults_of_devices(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields what the device, or the number of devices, cannot do."""
    devices, precision = arguments.devices, arguments.precision
    there = torch.cuda.device_count() if arguments.accelerator == "cuda" else None
    if there is not None and devices > there:
        yield f"--devices {devices}: this machine has {there}; give {there} at most"
    if arguments.accelerator == "cpu" and precision.startswith("16"):
        yield (
            f"--precision {precision}: fp16 is about 100 times slower than fp32 on a CPU; give"
            " auto, bf16-true or 32-true"
        )
    if arguments.strategy == "fsdp2" and devices == 1:
        yield "--strategy fsdp2: divides the weights among several devices; give --devices 2 or more"
    if arguments.tf32 and arguments.accelerator != "cuda":
        yield f"--tf32: only CUDA multiplies in TF32, and this is {arguments.accelerator}; leave it out"
    if arguments.tf32 and precision != "32-true":
        yield f"--tf32: is for float32, and --precision is {precision}; give --precision 32-true"
    if arguments.compile == "reduce-overhead" and arguments.accelerator != "cuda":
        yield f"--compile reduce-overhead: needs CUDA graphs, and this is {arguments.accelerator}; give --compile"
    if arguments.compile == "reduce-overhead" and arguments.accumulate_grad_batches > 1:
        yield "--compile reduce-overhead: CUDA graphs write over gradients that are accumulated; give --compile"


def faults_of_modes(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields what does not go with --flops-only and --as-notebook."""
    if arguments.flops_only:
        if arguments.batch_size == "auto":
            yield "--batch-size auto: --flops-only trains nothing; give a number"
        for name, is_given in {"--against": arguments.against, "--repeat": arguments.repeat > 1}.items():
            if is_given:
                yield f"{name}: --flops-only trains nothing; leave one of them out"
    if arguments.as_notebook:
        others = {
            f"--devices {arguments.devices}": arguments.devices > 1,
            f"--strategy {arguments.strategy}": arguments.strategy != "auto",
            "--compile": arguments.compile,
            "--checkpoint-activations": arguments.checkpoint_activations,
            f"--accumulate-grad-batches {arguments.accumulate_grad_batches}": arguments.accumulate_grad_batches > 1,
        }
        yield from (
            f"{name}: the notebook did no such thing; leave --as-notebook out" for name, on in others.items() if on
        )
