"""A training step of a fake copy of a model: measures the memory of the step without using it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from mfu_callback.finder.data.samples import batch_length, with_tensors
from mfu_callback.finder.prediction.memory import MemoryMode, MemoryPrediction, Part
from mfu_callback.finder.trials.isolation import random_state_kept
from mfu_callback.lightning import private_names
from mfu_callback.lightning.namespaces import is_lightning_module
from mfu_callback.tools.dynamo import uncompiled
from mfu_callback.tools.nested import tensors_in

MakeOptimizer = Callable[[Any], Optimizer]


class FakeStep:
    """Runs training steps of a module on fake tensors, with a CPU's operators.

    The second step is measured. By then the optimizers' state exists, and the gradients of the first step stay until
    the forward pass is over.

    Args:
        module: A LightningModule, whose ``training_step`` and ``configure_optimizers`` are used; or any other module,
            whose loss is the sum of the floating-point outputs of its forward pass.
        batch: A batch. Of its tensors only shapes and dtypes are used.
        make_optimizer: A function from parameters to their optimizer. None for those of the LightningModule, or AdamW
            for any other module.
        context: Returns the context of the forward pass, such as autocast.
    """

    def __init__(
        self,
        module: nn.Module,
        batch: Any,
        *,
        make_optimizer: MakeOptimizer | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        # An operator without a fake implementation would else run on real tensors of the same sizes.
        self._fake = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        self._context = context
        self._batch = batch
        self.own_size = batch_length(batch)
        self._mode = MemoryMode()
        with self._faked():
            self._module = _fake_copy(module, self._fake)
            self._mode.hold((*self._module.parameters(), *self._module.buffers()), Part.PARAMETERS)
            for parameter in self._module.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._hold_gradient)  # type: ignore[no-untyped-call]
            self._optimizers = _optimizers(self._module, make_optimizer)
        self.peak(max(1, self.own_size))  # the first step, which creates the optimizers' state

    def peak(self, size: int) -> MemoryPrediction:
        """The peak memory of a step with a batch of ``size`` samples."""
        with self._faked(), self._mode:
            self._mode.begin()
            self._step(self._at(size))
            return self._mode.peak()

    @contextmanager
    def _faked(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(random_state_kept())
            stack.enter_context(uncompiled())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(self._fake)
            yield

    def _step(self, batch: Any) -> None:
        self._mode.making = Part.ACTIVATIONS
        loss = self._loss(batch)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        self._mode.making = Part.TEMPORARY
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
            self._mode.hold(tensors_in(list(optimizer.state.values())), Part.OPTIMIZER)

    def _loss(self, batch: Any) -> Tensor:
        with self._context():
            if not is_lightning_module(self._module):
                return _sum_of_floats(_called(self._module, batch))
            arguments = private_names.training_step_arguments(self._module, batch, 0)
            output: Any = self._module.training_step(*arguments)
        loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
        return loss

    def _hold_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._mode.hold([parameter.grad], Part.GRADIENTS)

    def _at(self, size: int) -> Any:
        def fake(tensor: Tensor) -> Tensor:
            is_batch = tensor.ndim > 0 and len(tensor) == self.own_size
            return torch.empty((size, *tensor.shape[1:]) if is_batch else tensor.shape, dtype=tensor.dtype)

        def repeated(values: list[Any]) -> list[Any]:
            return [values[i % self.own_size] for i in range(size)] if len(values) == self.own_size else values

        self._mode.making = Part.TEMPORARY
        return with_tensors(self._batch, fake, repeated)


def _fake_copy(module: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """A copy with fake tensors on the CPU. Data sets, loaders and arrays are shared with the module, not copied."""
    shared = [part for part in vars(module).values() if isinstance(part, Dataset | DataLoader | np.ndarray)]
    memo: dict[int, Any] = {id(part): part for part in shared}
    memo |= {id(trainer): None for trainer in (vars(module).get("_trainer"),) if trainer is not None}
    with FakeCopyMode(fake):
        copied = copy.deepcopy(module, memo)
    for tensor in (*copied.parameters(), *copied.buffers()):
        # A torch build without support for the module's device has no operators for it.
        tensor.fake_device = torch.device("cpu")  # type: ignore[attr-defined]
    if is_lightning_module(copied):
        for name in ("log", "log_dict"):
            setattr(copied, name, _do_nothing)
    return copied.train()


def _optimizers(module: Any, make_optimizer: MakeOptimizer | None) -> list[Optimizer]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if make_optimizer is not None:
        return [make_optimizer(parameters)]
    if is_lightning_module(module):
        return [found for found in _found_in(module.configure_optimizers()) if isinstance(found, Optimizer)]
    return [torch.optim.AdamW(parameters)]


def _found_in(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _found_in(part)
    else:
        yield value


def _called(module: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, list | tuple) else module(batch)


def _sum_of_floats(output: Any) -> Tensor:
    floats = [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.requires_grad]
    return torch.stack([tensor.sum() for tensor in floats]).sum()


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass
