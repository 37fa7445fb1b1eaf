"""Wrong values of every option of the public names: refused where they are given, by name, value and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from mfu_callback import (
    FlopCounter,
    MFUCallback,
    MFUMeter,
    Peak,
    count_flops,
    count_tokens,
    find_peak,
    measure_peak,
    model_flops_utilization,
    palm_flops_per_token,
    register_flop_formula,
)
from tests.helpers.values import ANYTHING, either, function, is_flag, is_function, is_none, number, whole, word

POSITIVE = number(lambda value: value > 0)
NOT_NEGATIVE = number(lambda value: value >= 0)
IS_MODULE = lambda value: isinstance(value, nn.Module)  # noqa: E731
IS_DTYPE = lambda value: isinstance(value, torch.dtype)  # noqa: E731
IS_DEVICE = lambda value: isinstance(value, torch.device) or word("cpu")(value)  # noqa: E731
ARGUMENTS = {
    "flops": either(word("thop", "dispatch", "thop-modules"), POSITIVE, is_function),
    "backward_factor": either(word("measured"), NOT_NEGATIVE),
    "attention": word("full", "causal"),
    "peak": either(is_none, word("measured"), POSITIVE),
    "tokens": either(is_none, whole(1), is_function),
    "ranks_per_batch": either(is_none, whole(1)),
    "sync": word("step", "events", "window"),
    "warmup_steps": whole(0),
    "modules": is_flag,
    "operators": is_flag,
    "board": is_flag,
    "summary": word("auto", "table", "line", None),
    "prometheus_port": either(is_none, whole(0, 65535)),
    "prometheus_host": lambda value: isinstance(value, str) and value != "",
}
PEAK = {"flops_per_sec": 1e12, "name": "one", "dtype": torch.float32, "source": "given: here"}
PALM = {"parameters": 10, "layers": 1, "heads": 1, "head_dim": 2, "length": 3}
MFU = {"tokens_per_sec": 1.0, "flops_per_token": 1.0, "peak_flops_per_sec": 1e12, "devices": 1}
IS_TEXT = ARGUMENTS["prometheus_host"]


def is_index(value: Any) -> bool:
    """Whether this torch takes a number for a device: where there is no accelerator, not every one does."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        return False
    try:
        return torch.device(int(value)).index is not None
    except (RuntimeError, ValueError):
        return False


def is_number_of_tensor(allowed: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a number is allowed, also as the only one of a tensor."""
    return lambda value: allowed(value.item() if isinstance(value, torch.Tensor) and value.dim() == 0 else value)


# Each public name with right arguments, and by option what is right.
PUBLIC: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "MFUCallback": (MFUCallback, {}, ARGUMENTS | {"validation": is_flag}),
    "MFUMeter": (
        MFUMeter,
        {"model": nn.Linear(2, 2)},
        ARGUMENTS
        | {
            "model": IS_MODULE,
            "device": either(is_none, IS_DEVICE, is_index),
            "dtype": either(is_none, IS_DTYPE),
            "loggers": lambda value: isinstance(value, (list, tuple, dict, set, str)) and not value,
            "fabric": is_none,
            "directory": either(is_none, lambda value: isinstance(value, str)),
        },
    ),
    "FlopCounter": (
        FlopCounter,
        {"module": nn.Linear(2, 2)},
        {
            "module": IS_MODULE,
            "counter": word("thop", "dispatch", "thop-modules"),
            "attention": ARGUMENTS["attention"],
            "tensor_parallel": whole(1),
            "calls": is_none,
        },
    ),
    "Peak": (
        Peak,
        PEAK,
        {
            "flops_per_sec": POSITIVE,
            "name": IS_TEXT,
            "dtype": IS_DTYPE,
            "source": IS_TEXT,
            "memory_bytes": either(is_none, POSITIVE),
            "bandwidth_bytes_per_sec": either(is_none, POSITIVE),
            "is_noisy": is_flag,
        },
    ),
    "find_peak": (
        find_peak,
        {"device_name": "NVIDIA L4", "dtype": torch.float32},
        {
            "device_name": lambda value: isinstance(value, str),
            "dtype": IS_DTYPE,
            "tf32": is_flag,
            "multiprocessors": either(is_none, whole(0)),
        },
    ),
    "palm_flops_per_token": (palm_flops_per_token, PALM, dict.fromkeys(PALM, whole(1))),
    "model_flops_utilization": (
        model_flops_utilization,
        MFU,
        {
            "tokens_per_sec": is_number_of_tensor(NOT_NEGATIVE),
            "flops_per_token": is_number_of_tensor(NOT_NEGATIVE),
            "peak_flops_per_sec": is_number_of_tensor(POSITIVE),
            "devices": is_number_of_tensor(whole(1)),
        },
    ),
}
OPTIONS = [(name, option) for name, (_, _, options) in PUBLIC.items() for option in options]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(value=ANYTHING)
@example("x")
@example(2.5)
@example(float("nan"))
@example(True)
@example(-1)
@example(1)
@example(np.int64(3))
def test_an_option_takes_what_is_right_and_refuses_all_else_by_name_value_and_remedy(name, option, value):
    public, right, options = PUBLIC[name]
    if options[option](value):
        public(**right | {option: value})
        return
    with pytest.raises((ValueError, TypeError)) as refused:
        public(**right | {option: value})
    named = rf"{option}=(?s:.+) (must|is not known\. Use|is no) |{option}= has an? .* Pass "
    assert re.match(named, str(refused.value)), str(refused.value)


def test_every_argument_is_tried():
    from inspect import signature

    for name, (public, _, options) in PUBLIC.items():
        parameters = signature(public).parameters.values()
        assert {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} <= set(options), name


@pytest.mark.parametrize("value", [np.int64(2), np.uint8(2), np.int32(2)])
def test_whole_numbers_of_numpy_are_taken_as_pythons(value):
    arguments = MFUCallback(tokens=value, warmup_steps=value, ranks_per_batch=value, flops=value)._arguments
    taken = (arguments.tokens, arguments.warmup_steps, arguments.ranks_per_batch, arguments.flops)
    assert taken == (2, 2, 2, 2)
    assert {type(one) for one in taken} == {int}
    huge = palm_flops_per_token(parameters=value, layers=2**40, heads=value, head_dim=2**20, length=2**20)
    assert huge == 12 + 12 * 2**80 * 2


@given(value=ANYTHING)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_module_and_a_formula_are_asked_for_by_name(value):
    if not isinstance(value, nn.Module):
        with pytest.raises(TypeError, match=r"^module=(?s:.*) must be a torch\.nn\.Module"):
            count_flops(value, torch.ones(2))
    if not callable(value):
        with pytest.raises(TypeError, match=r"^forward=(?s:.*) cannot be called\. Give a function"):
            register_flop_formula(nn.Linear, forward=value)
    with pytest.raises(TypeError, match=r"^target=(?s:.*) cannot have a FLOP formula\. Give an operator"):
        register_flop_formula(value, forward=function)


WRONG_FOR_A_SWEEP = {
    "device": ["nonsense", "", 2.5, None, True, torch.float32],
    "dtype": ["float32", None, float, 32],
    "time_limit_sec": ["1", 0, -1, float("nan"), float("inf"), None, True],
    "use_cache": ["no", 1, None],
    "timer": [3, function],
    "now": [3, None, "time"],
}


@pytest.mark.parametrize(("option", "value"), [(name, one) for name, ones in WRONG_FOR_A_SWEEP.items() for one in ones])
def test_a_sweep_that_cannot_be_is_refused_before_it_begins(option, value):
    with pytest.raises((ValueError, TypeError), match=rf"^{option}=.* must "):
        measure_peak(**{"dtype": torch.float32, "time_limit_sec": 0.1, "use_cache": False} | {option: value})


class Unready:
    """An object that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("not ready")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(Unready(), "<Unready>"), (10**5000, "<int>"), ("y" * 999, f"'{'y' * 199}..."), (float("nan"), "nan")],
    ids=["unready", "number", "text", "nan"],
)
def test_what_cannot_be_shown_or_is_long_is_named_in_short(value, shown):
    with pytest.raises(ValueError, match=rf"^sync={re.escape(shown)} is not known\. Use one of"):
        MFUCallback(sync=value)


@given(batch=st.recursive(ANYTHING, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_batch_has_a_number_of_tokens_or_none(batch):
    assert count_tokens(batch) is None


@pytest.mark.parametrize(
    ("call", "refused"),
    [
        (lambda meter: meter.due("x"), "every='x' must be a number of optimizer steps"),
        (lambda meter: meter.due(0), "every=0 must be a number of optimizer steps"),
        (lambda meter: meter.log(2.5), "step=2.5 must be a whole number"),
        (lambda meter: meter.pause([]).__enter__(), r"part=\[\] is not known\. Use one of"),
        (lambda meter: meter.step(None, is_last="yes").__enter__(), "is_last='yes' must be True or False"),
    ],
)
def test_a_method_of_the_meter_names_what_is_wrong(call, refused):
    with pytest.raises(ValueError, match=refused):
        call(MFUMeter(nn.Linear(2, 2), peak=1e12, summary=None))
