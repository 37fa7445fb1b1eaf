"""Control flow counts what runs: the branch that is taken, and a loop's body as often as it runs."""

import pytest
import torch
from functorch.experimental.control_flow import map as map_over
from torch import nn
from torch._higher_order_ops.while_loop import while_loop

from mfu_callback import FlopCounter
from tests.helpers.torch_features import found, needs

scan = found("torch._higher_order_ops.scan.scan")
associative_scan = found("torch._higher_order_ops.associative_scan.associative_scan")
counts_control_flow = needs("torch.utils._python_dispatch.TorchDispatchMode.supports_higher_order_operators", "2.9")

N = 16
PRODUCT = 2 * N**3
A = torch.randn(N, N)


def loop(times):
    return while_loop(lambda i, y: i < times, lambda i, y: (i + 1, y @ y), (torch.tensor(0), A))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def counted(run):
    with FlopCounter(nn.Identity()) as counter:
        run()
    return counter.result()


@counts_control_flow
@pytest.mark.parametrize(("sign", "products"), [(1, 1), (-1, 2)])
def test_the_branch_that_is_taken(sign, products):
    x = (sign * torch.ones(N, N)).requires_grad_()
    with FlopCounter(nn.Identity()) as counter:
        out = torch.cond(x.sum() > 0, lambda x: x @ x, lambda x: x @ x @ x, (x,))
        forward = counter.result().forward
        out.sum().backward()
    count = counter.result()
    assert (forward, count.forward, count.complete) == (products * PRODUCT, products * PRODUCT, True)
    # torch runs the branch again in its backward.
    assert count.backward == (2 + 1) * products * PRODUCT


@counts_control_flow
@pytest.mark.parametrize("times", [0, 1, 5])
def test_a_loop_as_often_as_it_runs(times):
    count = counted(lambda: loop(times))
    assert (count.forward, count.complete) == (times * PRODUCT, True)


@counts_control_flow
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_scan_for_every_step(device):
    first, steps = torch.eye(N, device=device), torch.randn(5, N, N, device=device)
    count = counted(lambda: scan(lambda carry, x: (carry @ x, carry * 1), first, steps))
    assert (count.forward, count.complete) == (5 * PRODUCT, True)


@counts_control_flow
def test_a_scan_of_pairs_for_every_pair_that_is_combined():
    count = counted(lambda: associative_scan(lambda a, b: a @ b, torch.randn(4, N, N), 0, combine_mode="generic"))
    assert (count.forward, count.complete) == (4 * PRODUCT, True)  # 2 pairs, 1 pair of pairs, and 1 to fill the gap


@counts_control_flow
def test_a_map_for_every_item_with_its_gradients():
    weight = A.clone().requires_grad_()
    count = counted(lambda: map_over(lambda x, w: x @ w, torch.randn(5, 4, N), weight).sum().backward())
    assert (count.forward, count.complete) == (5 * 2 * 4 * N**2, True)
    assert count.backward == 2 * count.forward


@pytest.mark.parametrize("name", [pytest.param("scan", marks=counts_control_flow), "cond"])
def test_in_compiled_code_it_is_named(name):
    def run(x):
        if name == "scan":
            return scan(lambda carry, x: (carry @ x, carry * 1), torch.eye(N), x)[0]
        return torch.cond(x.sum() > 0, lambda x: x @ x, lambda x: x @ x @ x, (x,))

    compiled = torch.compile(run, backend="aot_eager")
    count = counted(lambda: compiled(torch.randn(5, N, N)))
    assert (count.forward, count.complete) == (0, False)
    assert name in " ".join(count.uncounted)


@pytest.mark.skipif(not counts_control_flow.args[0], reason="this torch counts control flow")
@pytest.mark.parametrize("run", [lambda: torch.cond(A.sum() > 0, torch.sin, torch.cos, (A,)), lambda: loop(3)])
def test_an_older_torch_names_it(run):
    count = counted(run)
    assert not count.complete
    assert count.uncounted
