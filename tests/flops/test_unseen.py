"""Work that no dispatch mode sees: kernels of other libraries, and other threads."""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from mfu_callback import FlopCounter, count_flops
from mfu_callback.flops import unseen

X = torch.randn(3, 5, 7)
LINEAR = 2 * 15 * 7 * 7
TORCHSCRIPT = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def write_behind(tensor, value=1.0):
    """Write a tensor's memory as a kernel of a C extension does: by its address, unseen by torch."""
    values = np.full(tuple(tensor.shape), value, dtype=np.float32)
    ctypes.memmove(tensor.data_ptr(), values.ctypes.data, values.nbytes)


class Kernel(nn.Module):
    """Makes an output with operators, and has a kernel fill it."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        out = self.make(x)
        write_behind(out, 3.0)
        return out + 1


MAKES = {
    "empty": torch.empty_like,
    "zeros": torch.zeros_like,
    "ones": torch.ones_like,
    "full": lambda x: torch.full_like(x, 2.0),
    "new_zeros": lambda x: x.new_zeros(x.shape),
    "a computed tensor": lambda x: x * 2,
    "a clone": torch.clone,
    "a view of a computed tensor": lambda x: (x * 2).transpose(0, 1),
    "a tensor changed in place": lambda x: torch.zeros_like(x).add_(1),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_memory_that_a_kernel_has_written_is_named_whatever_it_held_before(make):
    count = count_flops(nn.Sequential(nn.Linear(7, 7), Kernel(make)), X)
    assert count.forward == LINEAR
    assert count.uncounted == ("Kernel 1 (memory filled outside of torch's operators)",)


def test_small_and_large_memory_is_sampled_alike():
    for shape in ((1,), (3,), (17,), (1000, 3)):
        assert not count_flops(Kernel(torch.zeros_like), torch.randn(shape)).complete


@pytest.mark.parametrize("numbers", [1, 16, 17, 1000])
def test_memory_of_other_devices_is_sampled_at_the_same_places(numbers):
    """A GPU's memory is read by a gather; here it reads a CPU's."""
    storage = torch.arange(numbers, dtype=torch.float32).untyped_storage()
    assert unseen._sample_of_device(storage) == unseen._sample_of_host(storage)
    assert len(unseen._sample_of_host(storage)) == min(64, 4 * numbers)


def test_operators_that_write_in_place_or_through_views_are_no_kernel():
    class Writes(nn.Module):
        def forward(self, x):
            out = torch.zeros_like(x)
            out[0].copy_(x[0])
            out[1:] += 1
            out.view(-1)[::2].mul_(2)
            torch.add(out, 1, out=out)
            parts = torch.unsafe_chunk(out, 5, dim=1)
            parts[0].add_(parts[1]).sigmoid_()
            index = torch.tensor([0, 2])
            out.index_add_(0, index, x[:2])
            torch._foreach_add_([out, torch.ones(3)], 1)
            return out.relu_()

    assert count_flops(Writes(), X).complete


def test_numpy_in_the_training_step_itself_is_no_kernel():
    with FlopCounter(nn.Identity()) as counter:
        weights = torch.zeros(7)
        weights.numpy()[:] = 2.0
        X * weights
    assert counter.result().complete


class Outside(torch.autograd.Function):
    """Computes in numpy."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return torch.from_numpy(x.detach().numpy() @ weight.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        _, weight = ctx.saved_tensors
        return torch.from_numpy(grad.numpy() @ weight.detach().numpy().T), None


class Filled(torch.autograd.Function):
    """Fills a new tensor by its address."""

    @staticmethod
    def forward(ctx, x, weight):
        out = torch.zeros(*x.shape[:-1], weight.shape[1])
        write_behind(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return None, None


class Uses(nn.Module):
    """Applies a Function to its weight."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(7, 7))

    def forward(self, x):
        return self.function.apply(x, self.weight).relu()


@pytest.mark.parametrize("function", [Outside, Filled])
def test_a_function_whose_output_no_operator_computes_is_named(function):
    count = count_flops(nn.Sequential(nn.Linear(7, 7), Uses(function)), X)
    assert count.uncounted == (f"{function.__name__} (an autograd.Function whose output no operator computes)",)
    assert count.forward == LINEAR


class Seen(torch.autograd.Function):
    """Computes with operators, and returns one input as it is."""

    @staticmethod
    def forward(ctx, x, weight):
        out = torch.empty(*x.shape[:-1], weight.shape[1])
        torch.matmul(x, weight, out=out)
        return out, x.view_as(x), torch.zeros(3)

    @staticmethod
    def backward(ctx, *grads):
        return None, None


def test_a_function_that_computes_with_operators_is_not():
    with FlopCounter(nn.Identity()) as counter:
        Seen.apply(X, torch.randn(7, 7, requires_grad=True))[0].relu()
    assert (counter.result().forward, counter.result().complete) == (LINEAR, True)


def test_a_module_that_another_thread_runs_is_named():
    model = nn.Sequential(nn.Linear(7, 7), nn.Sequential(nn.Linear(7, 7), nn.ReLU()))
    with ThreadPoolExecutor(2) as pool, torch.no_grad(), FlopCounter(model) as counter:
        list(pool.map(model[1], [X, X]))
        model[0](X)
    count = counter.result()
    assert count.forward == LINEAR
    assert count.uncounted == ("Sequential 1 (ran in another thread)",)


def test_what_another_thread_computes_with_gradients_is_named_by_its_result():
    weight = torch.randn(7, 7, requires_grad=True)
    with ThreadPoolExecutor(1) as pool, FlopCounter(nn.Identity()) as counter:
        (pool.submit(lambda: X @ weight).result() + 1).sum().backward()
    count = counter.result()
    assert (count.forward, count.backward) == (0, LINEAR)
    assert count.uncounted == ("MmBackward0 (its forward ran in another thread, or before the step)",)


@TORCHSCRIPT
def test_a_forked_torchscript_task_counts_though_another_thread_runs_it():
    @torch.jit.script
    def product(x, y):
        return x @ y

    @torch.jit.script
    def forked(x, y):
        return torch.jit.wait(torch.jit.fork(product, x, y)) @ y

    x = torch.randn(4, 4, requires_grad=True)
    with FlopCounter(nn.Identity()) as counter:
        (forked(x, x) + 1).sum().backward()
    count, product_flops = counter.result(), 2 * 4**3
    assert (count.forward, count.backward, count.complete) == (2 * product_flops, 4 * product_flops, True)


def test_other_models_in_other_threads_are_none_of_the_counts_business():
    other = nn.Linear(7, 7)
    with ThreadPoolExecutor(1) as pool, FlopCounter(nn.Identity()) as counter:
        pool.submit(lambda: other(X)).result()
    assert (counter.result().forward, counter.result().complete) == (0, True)


@TORCHSCRIPT
def test_frozen_torchscript_counts_like_the_module():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    image = torch.randn(2, 3, 8, 8)
    expected = 2 * 2 * 8 * 36 * 27 + 2 * 2 * 8 * 36 * 4
    frozen = torch.jit.freeze(torch.jit.script(model))
    for kind in (model, frozen):
        for _ in range(4):  # the profiling executor specializes the graph in its first runs
            count = count_flops(kind, image)
            assert (count.forward, count.complete) == (expected, True)


@TORCHSCRIPT
def test_a_convolution_that_torchscript_computes_itself_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    optimized = torch.jit.optimize_for_inference(torch.jit.script(model))
    for _ in range(4):
        count = count_flops(optimized, torch.randn(2, 3, 8, 8))
        assert count.forward == 2 * 2 * 8 * 36 * 4
        assert count.uncounted == ("prim::mkldnn_convolution (computed by TorchScript)",)


class Composed(torch.autograd.Function):
    """A Function that torch.func can transform."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x @ torch.ones(7, 7)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad @ torch.ones(7, 7)


def meta_learning(model, x):
    """A step of MAML: the gradients of the first loss are part of the second one's graph."""
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(model(x).sum(), list(weights.values()), create_graph=True)
    changed = {name: weight - grad for (name, weight), grad in zip(weights.items(), gradients, strict=True)}
    torch.func.functional_call(model, changed, (x,)).sum().backward()


def loss_of(model):
    return lambda weights, x: torch.func.functional_call(model, weights, (x,)).sum()


@pytest.mark.parametrize(
    "run",
    [
        meta_learning,
        lambda model, x: torch.func.grad(loss_of(model))(dict(model.named_parameters()), x),
        lambda model, x: torch.vmap(torch.func.grad(loss_of(model)), (None, 0))(dict(model.named_parameters()), x),
        pytest.param(lambda model, x: torch.func.jvp(model, (x,), (x,)), marks=TORCHSCRIPT),
        lambda model, x: torch.func.jacrev(lambda x: model(x).sum())(x),
        lambda model, x: torch.vmap(Composed.apply)(x),
        lambda model, x: torch.func.grad(lambda x: Composed.apply(x).sum())(x),
        lambda model, x: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True).sum().backward(),
        lambda model, x: torch.autograd.grad(model(x).sum(), x, create_graph=True)[0].pow(2).sum().backward(),
    ],
)
def test_gradients_of_gradients_and_transforms_leave_nothing_unseen(run):
    model = nn.Sequential(nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 1))
    with FlopCounter(model) as counter:
        run(model, X.clone().requires_grad_())
    assert (counter.result().left_out, counter.result().forward > 0) == ((), True)


def test_a_copy_between_devices_may_end_later():
    watch = unseen.UnseenWork()
    on_host = torch.zeros(4)
    watch.look(torch.ops.aten.copy_.default, (on_host, torch.zeros(4, device="meta")), {}, on_host, "Copies")
    write_behind(on_host)
    assert watch.look(torch.ops.aten.relu.default, (on_host,), {}, torch.ones(4), "Copies") == []


class ActNorm(nn.Module):
    """Sets its weight from the first batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7))
        self.is_set = False

    def forward(self, x):
        if not self.is_set:
            self.weight.data.copy_(x.detach().std(dim=(0, 1)))
            self.is_set = True
        return x * self.weight


class MaxNorm(nn.Linear):
    """Keeps the norm of its weight in its forward."""

    def forward(self, x):
        with torch.no_grad():
            self.weight.renorm_(2, 0, 1.0)
        return super().forward(x)


class HoldsViews(nn.Module):
    """Multiplies by a view of its parameter that it has made before."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Parameter(torch.randn(100))
        self.weight = self.flat[:49].view(7, 7).t()

    def forward(self, x):
        return x @ self.weight


MODELS = {
    "instance norm": lambda: nn.Sequential(nn.Conv1d(5, 5, 3), nn.InstanceNorm1d(5, track_running_stats=True)),
    "batch norm": lambda: nn.Sequential(nn.Conv1d(5, 5, 3), nn.BatchNorm1d(5)),
    "lazy batch norm": lambda: nn.Sequential(nn.Conv1d(5, 5, 3), nn.LazyBatchNorm1d()),
    "set from data": lambda: nn.Sequential(ActNorm(), nn.Linear(7, 7)),
    "norm kept in the forward": lambda: MaxNorm(7, 7),
    "views": HoldsViews,
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_weights_and_statistics_that_operators_and_optimizers_write_are_no_kernel(name):
    model = MODELS[name]()
    with FlopCounter(model) as counter:
        for _ in range(2):
            model(X).sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step() if name != "views" else None
    assert (counter.result().left_out, counter.result().forward > 0) == ((), True)


@pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"gradient_as_bucket_view": True}])
def test_the_buckets_of_ddp_are_no_kernel(tmp_path, options):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(MODELS["batch norm"](), **options)
        with FlopCounter(model) as counter:
            for _ in range(3):  # the second forward builds the buckets anew
                model(X).sum().backward()
        assert counter.result().left_out == ()
    finally:
        torch.distributed.destroy_process_group()


class PlainForward(torch.jit.ScriptModule):
    """A module of TorchScript's class whose forward is plain Python."""

    def forward(self, x):
        return x @ torch.ones(7, 7)


def test_a_script_module_with_a_plain_forward():
    assert count_flops(PlainForward(), X).forward == LINEAR
