"""The FLOP counters that are compared.

Each is called as in its own documentation, on the whole batch. A tool is imported only when it counts, so a tool that
is not installed does not affect the others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One tool.

    Attributes:
        count: Returns the count of one forward pass of a model on these inputs, in the tool's unit; None is no count.
        module: The module to import before the clock starts.
        package: The package to install with pip.
        unit: "FLOPs", or "MACs" (multiply-accumulates) of 2 FLOPs each.
    """

    count: Callable[[nn.Module, Inputs], float | None]
    module: str
    package: str
    unit: str = "MACs"

    @property
    def installed(self) -> bool:
        """Whether the tool can be imported."""
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None

    def flops(self, model: nn.Module, inputs: Inputs) -> float | None:
        """Returns the forward FLOPs; None is no count."""
        counted = self.count(model, inputs)
        return counted if counted is None or self.unit == "FLOPs" else 2 * counted


def forward_alone(model: nn.Module, inputs: Inputs) -> None:
    """Count nothing: the baseline of time and memory."""
    model(*inputs)


def ours(model: nn.Module, inputs: Inputs) -> int:
    """Ours, in FLOPs."""
    from mfu_callback import count_flops

    return count_flops(model, *inputs).forward


def flop_counter_mode(model: nn.Module, inputs: Inputs) -> int:
    """Torch's own, in FLOPs: https://github.com/pytorch/pytorch/blob/main/torch/utils/flop_counter.py."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as mode:
        model(*inputs)
    return mode.get_total_flops()


def thop(model: nn.Module, inputs: Inputs) -> float:
    """thop, in MACs: https://github.com/Lyken17/pytorch-OpCounter."""
    from thop import profile

    return profile(model, inputs, verbose=False)[0]


def calflops_flops(model: nn.Module, inputs: Inputs) -> float:
    """Calflops' FLOPs, elementwise work included: https://github.com/MrYxJ/calculate-flops.pytorch."""
    from calflops import calculate_flops

    return calculate_flops(model, args=list(inputs), print_results=False, output_as_string=False)[0]


def calflops_macs(model: nn.Module, inputs: Inputs) -> float:
    """Calflops' MACs: matmuls and convolutions, no recurrent layers."""
    from calflops import calculate_flops

    return calculate_flops(model, args=list(inputs), print_results=False, output_as_string=False)[1]


def ptflops(model: nn.Module, inputs: Inputs) -> int:
    """ptflops, in MACs: https://github.com/sovrasov/flops-counter.pytorch.

    It divides a part of its count by the length of the first positional input, so the inputs are passed by name.
    """
    from ptflops import get_model_complexity_info

    by_name: dict[str, Any] = inspect.signature(model.forward).bind(*inputs).arguments
    settings = {"as_strings": False, "print_per_layer_stat": False}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        macs, _ = get_model_complexity_info(model, (1,), input_constructor=lambda _: by_name, **settings)
    if macs is None:
        raise RuntimeError(said.getvalue().partition("exception:")[2].strip() or "gave no count")
    return macs


def fvcore(model: nn.Module, inputs: Inputs) -> float:
    """fvcore, in MACs, which it calls flops: https://github.com/facebookresearch/fvcore."""
    from fvcore.nn import FlopCountAnalysis

    return FlopCountAnalysis(model, inputs).total()


def torchprofile(model: nn.Module, inputs: Inputs) -> int:
    """torchprofile, in MACs: https://github.com/zhijian-liu/torchprofile."""
    from torchprofile import profile_macs

    return profile_macs(model, inputs)


def deepspeed_flops(model: nn.Module, inputs: Inputs) -> int:
    """DeepSpeed's FLOPs, elementwise work included: https://www.deepspeed.ai/tutorials/flops-profiler."""
    from deepspeed.profiling.flops_profiler import get_model_profile

    return get_model_profile(model, args=list(inputs), print_profile=False, as_string=False, warm_up=0)[0]


def deepspeed_macs(model: nn.Module, inputs: Inputs) -> int:
    """DeepSpeed's MACs: matmuls and convolutions, no recurrent layers."""
    from deepspeed.profiling.flops_profiler import get_model_profile

    return get_model_profile(model, args=list(inputs), print_profile=False, as_string=False, warm_up=0)[1]


_CALFLOPS = {"module": "calflops", "package": "calflops"}
_DEEPSPEED = {"module": "deepspeed.profiling.flops_profiler", "package": "deepspeed"}
_TORCH = {"module": "torch.utils.flop_counter", "package": "torch"}
COUNTERS: Mapping[str, Counter] = MappingProxyType(
    {
        "forward-alone": Counter(count=forward_alone, unit="FLOPs", **_TORCH),
        "mfu-callback": Counter(count=ours, module="mfu_callback", package="mfu-callback", unit="FLOPs"),
        "FlopCounterMode": Counter(count=flop_counter_mode, unit="FLOPs", **_TORCH),
        "thop": Counter(count=thop, module="thop", package="thop"),
        "calflops": Counter(count=calflops_flops, unit="FLOPs", **_CALFLOPS),
        "calflops-macs": Counter(count=calflops_macs, **_CALFLOPS),
        "ptflops": Counter(count=ptflops, module="ptflops", package="ptflops"),
        "fvcore": Counter(count=fvcore, module="fvcore.nn", package="fvcore"),
        "torchprofile": Counter(count=torchprofile, module="torchprofile", package="torchprofile"),
        "deepspeed": Counter(count=deepspeed_flops, unit="FLOPs", **_DEEPSPEED),
        "deepspeed-macs": Counter(count=deepspeed_macs, **_DEEPSPEED),
    }
)
