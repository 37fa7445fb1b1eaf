"""What `python -m mfu_callback.flops` does between its options and its exit status: one batch, counted and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from mfu_callback.flops.counter import FlopCounter
from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.model_source import NEEDS_VALUES, CountError, InputShape, needs_values, reason_of
from mfu_callback.flops.table import group_of
from mfu_callback.tools.nested import tensors_in

_MOST_PARTS = 8  # named in one remark


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A model and the count of one batch.

    Attributes:
        module: The model.
        inputs: The tensors of the batch, by keyword, or by place ("0").
        count: The FLOPs of the batch.
        never_called: Names of the parts with weights that this batch did not reach.
    """

    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    count: FlopCount
    never_called: tuple[str, ...]

    @property
    def samples(self) -> int | None:
        """The first dimension of the first input; None without an input."""
        return next((tensor.shape[0] for tensor in self.inputs.values()), None)

    @property
    def tokens(self) -> int | None:
        """The elements of the first input, if they are token ids: integers of shape (B, T)."""
        first = next(iter(self.inputs.values()), None)
        is_tokens = first is not None and first.dim() == 2 and first.dtype in (torch.int32, torch.int64)
        return first.numel() if first is not None and is_tokens else None

    @property
    def remarks(self) -> list[str]:
        """What the count itself does not know."""
        if not self.never_called:
            return []
        shown, more = self.never_called[:_MOST_PARTS], len(self.never_called) - _MOST_PARTS
        parts = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
        return [f"not called with this batch, so not counted: {parts}. Give their inputs with --batch NAME=SHAPE."]


def count_batch(
    module: nn.Module, inputs: Sequence[InputShape], *, device: str, counter: str, attention: str, backward: bool
) -> Counted:
    """Run a model on one batch of zeros and count it.

    Args:
        module: The model, on the device.
        inputs: Its inputs; those whose name ends in "mask" are ones.
        device: A torch device.
        counter: As of :class:`FlopCounter`.
        attention: As of :class:`FlopCounter`.
        backward: Whether to run the backward of the sum of all floating-point outputs too.

    Raises:
        CountError: The model does not accept the batch, or needs values where it has none.
    """
    tensors = {one.name or str(place): _tensor(one, module, device) for place, one in enumerate(inputs)}
    unnamed = [tensors[str(place)] for place, one in enumerate(inputs) if one.name is None]
    named = {one.name: tensors[one.name] for one in inputs if one.name is not None}
    flop_counter = FlopCounter(module, counter=counter, attention=attention)
    called: set[nn.Module] = set()
    with ExitStack() as around:
        around.enter_context(_explained(device, inputs))
        around.enter_context(_remembered(called))
        around.enter_context(nullcontext() if backward else torch.no_grad())
        around.enter_context(_FusedAttention() if device == "meta" else nullcontext())
        around.enter_context(flop_counter)
        outputs = module(*unnamed, **named)
        if backward:
            _run_backward(outputs)
    count = flop_counter.result()
    return Counted(module=module, inputs=tensors, count=count, never_called=_never_called(module, called, count))


def _tensor(one: InputShape, module: nn.Module, device: str) -> torch.Tensor:
    floating = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    dtype = one.dtype or next(floating, torch.float32)
    return torch.full(one.shape, int((one.name or "").endswith("mask")), dtype=dtype, device=device)


@contextmanager
def _explained(device: str, inputs: Sequence[InputShape]) -> Iterator[None]:
    try:
        yield
    except CountError:
        raise
    except Exception as error:
        given = " ".join(f"--batch {text_of(one.name, one.shape, one.dtype)}" for one in inputs) or "no --batch"
        raise CountError(f"the model failed with {given} ({reason_of(error)}). {_remedy(device, error)}") from error


def _remedy(device: str, error: Exception) -> str:
    if device != "meta":
        return "Give the inputs that it needs with --batch [NAME=]SHAPE[:DTYPE]."
    if needs_values(error):
        return NEEDS_VALUES
    return "Give the inputs that it needs with --batch [NAME=]SHAPE[:DTYPE]; if it reads values, use --device cpu."


@contextmanager
def _remembered(called: set[nn.Module]) -> Iterator[None]:
    def remember(module: nn.Module, _: Any) -> None:
        if not torch.compiler.is_compiling():
            called.add(module)

    handle = register_module_forward_pre_hook(remember)
    try:
        yield
    finally:
        handle.remove()


class _FusedAttention(TorchFunctionMode):
    """Runs attention without a mask as the fused kernel that a GPU has.

    torch has no fused kernel for the meta device: it would run separate matmuls, of which it cannot be seen that half
    of the pairs are masked, and which write scores that no kernel writes.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call one function of torch."""
        call = _fused_attention if func is scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))


def _fused_attention(
    query: torch.Tensor,  # (B, H, T, D)
    key: torch.Tensor,  # (B, H, S, D); fewer heads with enable_gqa
    value: torch.Tensor,  # (B, H, S, Dv)
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if attn_mask is not None or query.dim() != 4 or query.device.type != "meta":
        options: dict[str, Any] = {"enable_gqa": True} if enable_gqa else {}  # torch 2.4 has no such option
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    if enable_gqa:
        key, value = (shared.repeat_interleave(query.shape[1] // shared.shape[1], 1) for shared in (key, value))
    if torch._C._dispatch_has_kernel_for_dispatch_key("aten::_scaled_dot_product_efficient_attention", "Meta"):
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, None, True, dropout_p, is_causal, scale=scale)[0]
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the one that torch 2.4 has
    return kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]


def _run_backward(outputs: Any) -> None:
    parts = [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point() and tensor.requires_grad]
    if not parts:
        raise CountError("--backward: no floating-point output of the model depends on a weight that is trained.")
    reduce(torch.add, [tensor.sum() for tensor in parts]).backward()  # type: ignore[no-untyped-call]


def _never_called(module: nn.Module, called: set[nn.Module], count: FlopCount) -> tuple[str, ...]:
    """Parts with matrices that did not run: nothing of them was called or counted, nor counted in their parent."""
    has_flops = {outer for name in count.per_module for outer in _outer_names(name)}
    found: dict[str, None] = {}
    for name, part in module.named_modules():
        parent = name.rpartition(".")[0]
        is_named = not found.keys().isdisjoint(_outer_names(parent))
        may_have_run = name in has_flops or parent in count.per_module or not called.isdisjoint(part.modules())
        has_matrices = any(parameter.dim() > 1 for parameter in part.parameters())
        if has_matrices and any(part.children()) and not (is_named or may_have_run):
            found[name] = None
    return tuple(dict.fromkeys(map(group_of, found)))


def _outer_names(name: str) -> list[str]:
    """A module's name and those of the modules around it: "a.b" and "a" of "a.b"."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def text_of(name: str | None, shape: Sequence[int], dtype: torch.dtype | None) -> str:
    """An input as the option --batch has it."""
    sizes = "x".join(map(str, shape))
    return (f"{name}=" if name else "") + sizes + (f":{_short(dtype)}" if dtype else "")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_lines(counted: Counted, *, device: str, by: str) -> list[str]:
    """The result for people: the model, the FLOPs of the batch, the tables, and what is missing in them.

    Args:
        counted: The model and its count.
        device: The device that it ran on.
        by: "module", "operator" or "both": which tables to show.
    """
    module, count = counted.module, counted.count
    mode = "train" if module.training else "eval"
    lines = [
        f"{type(module).__name__}: {parameters_of(module):,} parameters, in {mode} mode on the {device} device",
        f"batch: {', '.join(_batch_texts(counted)) or 'no input'}",
        _rates("forward", count.forward, counted),
    ]
    if count.backward is not None:
        lines.append(_rates("backward", count.backward, counted))
    lines += [str(count)] if by != "operator" else []
    lines += [count.operators()] if by != "module" else []
    if by == "operator":
        lines += [f"not counted: {', '.join(count.left_out)}"] if count.left_out else []
        lines += [f"note: {note}" for note in count.notes]
    return [*lines, *(f"note: {remark}" for remark in counted.remarks), *_remedies(count, device)]


def _batch_texts(counted: Counted) -> list[str]:
    return [
        text_of(None if name.isdigit() else name, tensor.shape, tensor.dtype) for name, tensor in counted.inputs.items()
    ]


def _rates(label: str, flops: int, counted: Counted) -> str:
    rates = [f"{label}: {flops:.4e} FLOPs"]
    for unit, number in (("sample", counted.samples), ("token", counted.tokens)):
        if number is not None:
            rates.append(f"{flops / number:.4e} per {unit}")
    return ", ".join(rates)


def _remedies(count: FlopCount, device: str) -> list[str]:
    if not count.left_out:
        return []
    lines = ["The figures are too low by what is not counted."]
    if count.uncounted:
        own = "Give its formula with mfu_callback.register_flop_formula, in the file that MODEL names"
        lines.append(f"{own}{'; or try --device cpu' if device == 'meta' else ''}.")
    if count.rule_errors:
        lines.append("A rule failed on a call, which is a bug of this package: please report the line above.")
    return [" ".join(lines)]


def parameters_of(module: nn.Module) -> int:
    """The number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def as_json(counted: Counted, *, device: str, counter: str) -> dict[str, Any]:
    """The result for programs, in FLOPs and bytes; what is not known is None."""
    module, count = counted.module, counted.count
    result = asdict(count)
    return {
        "model": type(module).__name__,
        "parameters": parameters_of(module),
        "device": device,
        "mode": "train" if module.training else "eval",
        "counter": counter,
        "batch": _batch_texts(counted),
        "samples": counted.samples,
        "tokens": counted.tokens,
        "complete": count.complete,
        **result,
        "bytes_per_module": {name: traffic._asdict() for name, traffic in count.bytes_per_module.items()},
        "notes": [*count.notes, *counted.remarks],
    }
