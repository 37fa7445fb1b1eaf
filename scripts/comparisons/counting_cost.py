"""Measures what counting FLOPs costs: a counted training step beside a plain one, and a count on the meta device.

The steps train one model with AdamW and take turns: a GPT, or Hugging Face's ResNet-50 with random weights, whose batch
is of images of 224 x 224. The counted step runs inside a FlopCounter, as the first step of a run with MFUCallback does.
Then the largest GPT is counted on the meta device, without memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from gpt import GPT, SIZES, get_config
from mfu_callback import FlopCounter, count_flops
from scripts.comparisons.in_turns import print_comparison, time_in_turns

RESNET = "resnet-50"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Compare and print."""
    arguments = parse_arguments()
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPES[arguments.dtype])
    seconds = time_in_turns(plain_and_counted(arguments), warmup=arguments.warmup, rounds=arguments.rounds)
    tokens = 1 if arguments.size == RESNET else arguments.context_length
    print_comparison(seconds, over="plain", tokens=arguments.batch_size * tokens)
    time_on_meta(arguments.meta_size)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=(*SIZES, RESNET), default="gpt-small", help="what to train")
    parser.add_argument("--meta-size", choices=SIZES, default="gpt-xl", help="which GPT to count on the meta device")
    parser.add_argument("--batch-size", type=int, default=1, help="sequences or images in a batch")
    parser.add_argument("--context-length", type=int, default=256, help="tokens in a sequence")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="dtype of weights and activations")
    parser.add_argument("--rounds", type=int, default=15, help="measured steps of each")
    parser.add_argument("--warmup", type=int, default=2, help="warm-up steps of each before that")
    return parser.parse_args()


def plain_and_counted(arguments: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Returns the same training step twice: plain and counted."""
    model, loss = resnet(arguments.batch_size) if arguments.size == RESNET else gpt(arguments)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def plain() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    def counted() -> None:
        with FlopCounter(model):
            plain()

    return {"plain": plain, "counted": counted}


def gpt(arguments: argparse.Namespace) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Returns a GPT and a function that computes its loss on a batch."""
    model = GPT(get_config(arguments.size))
    tokens = torch.randint(50257, (arguments.batch_size, arguments.context_length + 1))
    return model, lambda: model.loss(tokens[:, :-1], tokens[:, 1:])


def resnet(batch_size: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Returns a ResNet-50 and a function that computes its loss on a batch."""
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    images, labels = torch.randn(batch_size, 3, 224, 224), torch.randint(1000, (batch_size,))
    return model, lambda: functional.cross_entropy(model(images).logits, labels)


def time_on_meta(size: str) -> None:
    """Build and count a GPT on the meta device, without memory, and print the times."""
    start = perf_counter()
    with torch.device("meta"):
        model, tokens = GPT(get_config(size)), torch.zeros(2, 1024, dtype=torch.long)
    built = perf_counter()
    count = count_flops(model, tokens)
    print(
        f"{size} on the meta device: built in {built - start:.2f} s, counted in {perf_counter() - built:.2f} s"
        f" ({count.forward:.4e} FLOPs)"
    )


if __name__ == "__main__":
    main()
