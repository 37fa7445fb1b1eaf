"""Train our GPT and Hugging Face's GPT-2 of the same size side by side, step by step, and compare their step times.

Both run the same optimizer on random tokens, in turns in one process, so that a change of the machine's speed affects
both.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import transformers

from gpt import GPT, SIZES, get_config
from scripts.comparisons.in_turns import print_comparison, time_in_turns

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    """Run the comparison and print its table."""
    arguments = parse_arguments()
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPES[arguments.dtype])
    torch.set_default_device(arguments.device)
    steps = {"ours": our_step(arguments), "Hugging Face": hugging_face_step(arguments)}
    seconds = time_in_turns(steps, warmup=arguments.warmup, rounds=arguments.pairs)
    print_comparison(seconds, over="ours", tokens=arguments.batch_size * arguments.context_length)
    print(f"transformers {transformers.__version__}; a ratio above 1 means that ours is faster")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="gpt-small", help="which GPT to train")
    parser.add_argument("--batch-size", type=int, default=2, help="sequences in a batch")
    parser.add_argument("--context-length", type=int, default=512, help="tokens in a sequence")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="dtype of weights and activations")
    parser.add_argument("--device", default="cpu", help="where to train")
    parser.add_argument("--pairs", type=int, default=10, help="measured steps of each")
    parser.add_argument("--warmup", type=int, default=2, help="warm-up steps of each before that")
    return parser.parse_args()


def our_step(arguments: argparse.Namespace) -> Callable[[], None]:
    """Returns a training step of our model."""
    model = GPT(get_config(arguments.size))
    inputs, targets = random_batch(arguments)
    return training_step(model, lambda: model.loss(inputs, targets))


def hugging_face_step(arguments: argparse.Namespace) -> Callable[[], None]:
    """Returns a training step of transformers' model, whose loss shifts the labels itself."""
    config = get_config(arguments.size)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    inputs, _ = random_batch(arguments)
    return training_step(model, lambda: model(inputs, labels=inputs).loss)


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Returns a step of forward pass, backward pass and AdamW."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    return step


def random_batch(arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random inputs and targets, both (B, T)."""
    tokens = torch.randint(50257, (arguments.batch_size, arguments.context_length + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


if __name__ == "__main__":
    main()
