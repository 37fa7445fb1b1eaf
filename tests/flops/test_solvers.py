"""What is no matmul does not count in either pass, and is named: torch.linalg, torch.fft, parametrizations."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from mfu_callback import FlopCounter

N = 8
A = (torch.randn(N, N) + 10 * torch.eye(N)).requires_grad_()
B = torch.randn(N, 3)
SYMMETRIC = (A @ A.T).detach().requires_grad_()

SOLVERS = {
    "_linalg_solve_ex": lambda: torch.linalg.solve(A, B),
    "linalg_inv_ex": lambda: torch.linalg.inv(A),
    "linalg_cholesky_ex": lambda: torch.linalg.cholesky(SYMMETRIC),
    "cholesky_solve": lambda: torch.cholesky_solve(B, A),
    "linalg_solve_triangular": lambda: torch.linalg.solve_triangular(A.triu(), B, upper=True),
    "linalg_lu": lambda: torch.linalg.lu(A)[2],
    "linalg_qr": lambda: torch.linalg.qr(A)[0],
    "linalg_householder_product": lambda: torch.linalg.householder_product(A, B[:, 0]),
    "_linalg_eigh": lambda: torch.linalg.eigh(SYMMETRIC)[1],
    "linalg_eig": lambda: torch.linalg.eig(A)[0].abs(),
    "_linalg_svd": lambda: torch.linalg.svd(A)[1],
    "linalg_lstsq": lambda: torch.linalg.lstsq(A, B)[0],
    "linalg_pinv": lambda: torch.linalg.pinv(A),
    "linalg_matrix_exp": lambda: torch.linalg.matrix_exp(A / 10),
    "_linalg_det": lambda: torch.linalg.det(A),
    "_linalg_slogdet": lambda: torch.linalg.slogdet(A)[1],
    "_fft_r2c": lambda: torch.fft.rfft2(A).abs(),
    "_fft_c2r": lambda: 2 * torch.fft.irfft(torch.fft.rfft(A)),  # MKL of torch 2.6 wants no strides of 0
    "_fft_c2c": lambda: torch.fft.fft(A.to(torch.complex64)).abs(),
}


def counted(run, module=None, **options):
    with FlopCounter(module or nn.Identity(), **options) as counter:
        run().sum().backward()
    return counter.result()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_counts_in_neither_pass_and_is_named(name):
    count = counted(SOLVERS[name])
    assert (count.forward, count.backward, count.complete) == (0, 0, True)
    assert f"aten::{name} is no matmul: neither it nor its gradient is counted (docs/flops.md)" in count.notes


def test_matmuls_around_a_solver_count_as_ever():
    count = counted(lambda: torch.linalg.solve(A @ A, B) @ torch.ones(3, 5, requires_grad=True))
    product, last = 2 * N**3, 2 * N * 3 * 5
    assert (count.forward, count.backward) == (product + last, 2 * product + 2 * last)


def test_a_solver_without_gradients_hides_no_others_gradient():
    def run():
        first = A @ B
        with torch.no_grad():
            torch.linalg.inv(A)
        return first

    assert counted(run).backward == 2 * N * N * 3  # B needs no gradient


PARAMETRIZED = {
    "orthogonal by matrix_exp": lambda: parametrizations.orthogonal(nn.Linear(N, N), orthogonal_map="matrix_exp"),
    "orthogonal by cayley": lambda: parametrizations.orthogonal(nn.Linear(N, N), orthogonal_map="cayley"),
    "orthogonal by householder": lambda: parametrizations.orthogonal(nn.Linear(N, N), orthogonal_map="householder"),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(N, N)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(N, N)),
}


@pytest.mark.parametrize("counter", ["thop", "dispatch"])
@pytest.mark.parametrize("make", PARAMETRIZED.values(), ids=PARAMETRIZED.keys())
def test_a_parametrized_layer_counts_like_one_without(make, counter):
    x = torch.randn(5, N, requires_grad=True)
    layer = make()
    count = counted(lambda: layer(x), layer, counter=counter)
    product = 2 * 5 * N * N
    assert (count.forward, count.backward, count.complete) == (product, 2 * product, True)


def test_a_parametrization_of_the_users_counts():
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Parameter(torch.randn(N, 2)), nn.Parameter(torch.randn(2, N))

        def forward(self, weight):
            return weight + self.left @ self.right

    layer = nn.Linear(N, N)
    nn.utils.parametrize.register_parametrization(layer, "weight", LowRank())
    count = counted(lambda: layer(torch.ones(5, N)), layer)
    assert count.forward == 2 * 5 * N * N + 2 * N * 2 * N


def test_distances_count_alike_in_both_passes():
    points = torch.randn(6, 4, requires_grad=True)
    count = counted(lambda: torch.pdist(points))
    assert count.forward == count.backward == 6 * 5 * 4


class Convolves(torch.autograd.Function):
    """Computes with a transform first; its backward, which is written by hand, multiplies."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return torch.fft.irfft(torch.fft.rfft(x)) @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.T, x.T @ grad


def test_the_backward_of_a_users_function_counts_though_a_transform_runs_in_its_forward():
    weight = torch.randn(N, 3, requires_grad=True)
    count = counted(lambda: Convolves.apply(A, weight))
    assert (count.forward, count.backward) == (2 * N * N * 3, 2 * 2 * N * N * 3)


def test_a_solver_counts_where_the_user_gives_it_a_formula(registered):
    solve = torch.ops.aten._linalg_solve_ex
    registered(solve, forward=lambda a, b, **_: 2 * a.shape[-1] ** 3 // 3, backward=lambda a, b, **_: 100)
    count = counted(lambda: torch.linalg.solve(A, B))
    assert (count.forward, count.backward, count.notes) == (2 * N**3 // 3, 100, ())
