"""Finds the rule of an operator, and the operators without a rule that may hide model FLOPs."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch

from mfu_callback.flops.rules.attention import ATTENTION_RULES
from mfu_callback.flops.rules.call import Call, Rule, Work, bind, with_defaults
from mfu_callback.flops.rules.convolution import CONVOLUTION_RULES
from mfu_callback.flops.rules.formulas import (
    OWN_SOURCE,
    REGISTERED_SOURCE,
    Formula,
    formula_of_operator,
    formula_of_torch,
)
from mfu_callback.flops.rules.matmul import MATMUL_RULES
from mfu_callback.flops.rules.recurrent import RECURRENT_RULES

RULES: dict[str, Rule] = {**MATMUL_RULES, **CONVOLUTION_RULES, **RECURRENT_RULES, **ATTENTION_RULES}

# In these libraries an operator's name shows whether it multiplies matrices. All operators of others are suspect.
_SPEAKING_LIBRARIES = frozenset(
    [
        "aten",
        "prim",
        "prims",
        "inductor",
        "profiler",
        "c10d",
        "_c10d_functional",
        "c10d_functional",
        "_c10d_functional_autograd",
        "_dtensor",
        "fsdp",
        "rngprims",
        "mkl",
        "mkldnn",
        "mkldnn_prepacked",
        "onednn",
        "quantized",
        "_quantized",
        "quantization",
        "sparse",
        "symm_mem",
        "torch_nn",
        "torch_attn",
        "torchvision",
        "torchaudio",
    ]
)
_SPEAKS_OF_A_PRODUCT = re.compile(
    r"(?:^|_)(?:q?conv\w*|q?linear|matmul|(?:sp?)?b?mm|\w*addmm|\w*spmm|int\dmm|mv|v?dot|gemm|\w*attn|attention"
    r"|rnn|lstm|gru|einsum|bilinear|deform)(?:_|\d|$)"
)
# Such names without a product: conversions, packing, and the elementwise part of recurrent cells.
_HOLDS_NO_PRODUCT = re.compile(
    r"convert|conversion|pack(?!ed)|reorder|flatten_weight|_thnn_|grid_sampler|upsample|make_quantized|_unpack|search"
)


# Higher-order operators whose bodies are seen operator by operator, or that have no body.
_BODIES_ARE_SEEN = frozenset({"invoke_subgraph", "print", "inductor_compiled_code"})


def work_of(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, *, attention: str, notes: set[str]
) -> Work | None:
    """FLOPs of one call of an operator; None if it has no rule.

    A formula that the user has registered goes before the rules here, and these before torch's registry.

    Args:
        func: The operator's overload, as a dispatch mode receives it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.
        attention: "full" or "causal".
        notes: Receives remarks on how this call was counted.

    Raises:
        UncountableError: If the arguments do not determine the FLOPs, or a formula from elsewhere fails.
    """
    rule = _rule_for(func)
    if isinstance(rule, Formula):
        if rule.source == REGISTERED_SOURCE:
            args, kwargs = with_defaults(func, args, kwargs)
        return Work(rule.flops(args, kwargs, out))
    if rule is None:
        return None
    found = rule(Call(bind(func, args, kwargs), out, attention, notes))
    work = found if isinstance(found, Work) else Work(found)
    return Work(*(4 * flops for flops in work)) if _is_complex(out) else work


def has_rule(func: Any) -> bool:
    """Whether an operator has a rule."""
    return _rule_for(func) is not None


def source_of(func: Any) -> str | None:
    """Who gives the rule of an operator: "mfu-callback", "register_flop_formula" or "torch.utils.flop_counter"."""
    rule = _rule_for(func)
    return rule.source if isinstance(rule, Formula) else None if rule is None else OWN_SOURCE


@cache
def may_compute(func: Any) -> bool:
    """Whether an operator without a rule may hide model FLOPs."""
    library, _, name = operator_name(func).rpartition("::")
    if isinstance(func, torch._ops.HigherOrderOperator):
        return name not in _BODIES_ARE_SEEN
    if library not in _SPEAKING_LIBRARIES:
        return True
    return bool(_SPEAKS_OF_A_PRODUCT.search(name)) and not _HOLDS_NO_PRODUCT.search(name)


@cache
def operator_name(func: Any) -> str:
    """The operator's name with its library, without its overload."""
    return str(func.name()).split(".")[0]


def _rule_for(func: Any) -> Rule | Formula | None:
    return formula_of_operator(func) or _own_rule_for(func) or formula_of_torch(func)


def _own_rule_for(func: Any) -> Rule | None:
    name, in_place_of = _names(func)
    return RULES.get(name) or RULES.get(in_place_of)


@cache
def _names(func: Any) -> tuple[str, str]:
    """An operator's name, and that of the operator that it is the in-place form of: those end with an underscore."""
    name = operator_name(func)
    return name, name.removesuffix("_")


def _is_complex(out: Any) -> bool:
    first = out[0] if isinstance(out, tuple | list) and out else out
    return isinstance(first, torch.Tensor) and first.is_complex()
