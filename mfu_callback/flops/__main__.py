"""The command `python -m mfu_callback.flops`: the FLOPs of a model by module and by operator, without a Trainer."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import torch

from mfu_callback.flops.command import Counted, as_json, as_lines, count_batch
from mfu_callback.flops.counter import ATTENTIONS, COUNTERS
from mfu_callback.flops.model_source import CountError, InputShape, load_model
from mfu_callback.tools.command import run_command

_PROGRAM = "python -m mfu_callback.flops"
_INPUT = re.compile(r"(?:(?P<name>[^\W\d]\w*)=)?(?P<shape>[1-9]\d*(?:x[1-9]\d*)*)(?::(?P<dtype>\w+))?")
_EXAMPLES = """
examples:
  python -m mfu_callback.flops my.package:ResNet --arg layers=50 --batch 8x3x224x224
  python -m mfu_callback.flops path/to/model.py:make_model --batch 2x1024:int64 --backward
  python -m mfu_callback.flops path/to/config.json --batch 1x4096 --attention causal

Exit status: 0, also where something could not be counted, which the output names; 2 if the model could not be built
or run.
"""


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Print the model FLOPs of one batch of a model, by module and by operator.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="package.module:name or path/to/file.py:name, of a subclass of nn.Module, a function that returns a"
        " module, or a module; or the path of a Hugging Face config.json (needs transformers)",
    )
    parser.add_argument(
        "--arg",
        type=_argument,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the class or function, a Python literal or else text; may be repeated",
    )
    parser.add_argument(
        "--batch",
        type=_input_shape,
        action="append",
        default=[],
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="an input of forward, zeros: 8x3x224x224, 2x1024:int64 or input_ids=2x1024:int64; may be repeated (default"
        " dtype: the weights'; default for a config: one sample of its usual size, 1024 tokens of text at most)",
    )
    _add_ways_to_count(parser)
    parser.add_argument(
        "--by", choices=("module", "operator", "both"), default="both", help="which tables to print (default: both)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _add_ways_to_count(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        type=_device,
        default="meta",
        help="meta: needs no memory and computes nothing, and takes attention without a mask for one fused kernel; cpu"
        " or cuda: for a model that reads values (default: meta)",
    )
    parser.add_argument("--eval", action="store_true", help="in eval mode instead of train mode")
    parser.add_argument("--backward", action="store_true", help="count the backward pass of the summed outputs too")
    parser.add_argument(
        "--attention",
        choices=ATTENTIONS,
        default="full",
        help="count the whole square of attention, or the pairs that attend (default: full)",
    )
    parser.add_argument(
        "--counter", choices=COUNTERS, default="thop", help="as MFUCallback's option flops= (default: thop)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = make_parser().parse_args(arguments)
    return run_command(_PROGRAM, lambda: _run(options), (CountError, OSError))


def _run(options: argparse.Namespace) -> int:
    with redirect_stdout(sys.stderr):  # what the user's code prints is not the result
        counted = _count(options)
    if options.json:
        print(json.dumps(as_json(counted, device=options.device, counter=options.counter), indent=2))
    else:
        print("\n".join(as_lines(counted, device=options.device, by=options.by)))
    return 0


def _count(options: argparse.Namespace) -> Counted:
    module, inputs = load_model(options.model, dict(options.arg), options.batch, options.device)
    return count_batch(
        module.train(not options.eval),
        inputs,
        device=options.device,
        counter=options.counter,
        attention=options.attention,
        backward=options.backward,
    )


def _argument(text: str) -> tuple[str, Any]:
    """An argument of the model's class, "name=value": a Python literal, or else text."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as layers=12")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _input_shape(text: str) -> InputShape:
    """An input of the model, "[name=]2x1024[:int64]"."""
    match = _INPUT.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not [NAME=]SHAPE[:DTYPE], such as 8x3x224x224 or 2x1024:int64")
    dtype = match["dtype"] and getattr(torch, match["dtype"], None)
    if match["dtype"] and not isinstance(dtype, torch.dtype):
        raise argparse.ArgumentTypeError(f"torch has no dtype {match['dtype']!r}; use int64, float32, bfloat16, bool")
    sizes = tuple(int(size) for size in match["shape"].split("x"))
    return InputShape(name=match["name"], shape=sizes, dtype=dtype or None)


def _device(text: str) -> str:
    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise argparse.ArgumentTypeError(f"this machine has no device {text!r} for torch ({reason})") from None
    return text


if __name__ == "__main__":
    sys.exit(main())
