"""Operators of torch.linalg and torch.fft that are no products of matrices: not counted, nor are their gradients.

Model FLOPs are those of matmuls, convolutions and recurrent cells (PaLM, appendix B). Solvers, factorizations and
transforms need others, and their number often depends on the values. Their gradients are computed with matmuls, which
would be counted without their forward; so neither counts, and each operator that ran is named.
"""

from __future__ import annotations

_LINALG = (
    *("_linalg_solve_ex", "linalg_inv_ex", "linalg_cholesky_ex", "linalg_lu_factor_ex", "linalg_lu", "linalg_lu_solve"),
    *("linalg_solve_triangular", "linalg_qr", "linalg_householder_product", "_linalg_eigh", "linalg_eig"),
    *("linalg_eigvals", "_linalg_eigvals", "_linalg_svd", "linalg_lstsq", "linalg_pinv", "_linalg_det"),
    *("_linalg_slogdet", "linalg_ldl_factor_ex", "linalg_ldl_solve", "linalg_matrix_exp", "cholesky_solve"),
    *("cholesky_inverse", "cholesky", "triangular_solve", "geqrf", "ormqr", "lu_unpack"),
)
_FFT = ("_fft_c2c", "_fft_r2c", "_fft_c2r")

SOLVERS: frozenset[str] = frozenset(f"aten::{name}" for name in (*_LINALG, *_FFT))


def remark(name: str) -> str:
    """The remark on a count in which such an operator ran."""
    return f"{name} is no matmul: neither it nor its gradient is counted (docs/flops.md)"
