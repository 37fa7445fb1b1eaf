"""Each setting in a process of its own: torch refuses its older questions for good once a newer one was used."""

import subprocess
import sys

import pytest

from mfu_callback.peaks import fp32_precision
from tests.helpers.torch_features import found, needs

FILE = fp32_precision.__file__
NEW = "torch.backends.fp32_precision"
CUDA, CUDNN, CPU = (
    "torch.backends.cuda.matmul.fp32_precision",
    "torch.backends.cudnn.fp32_precision",
    "torch.backends.mkldnn.matmul.fp32_precision",
)


@needs("torch.backends.mkldnn.matmul", "2.9")
@pytest.mark.parametrize(
    ("settings", "cuda", "cpu"),
    [
        ("pass", "ieee", "ieee"),
        ("torch.set_float32_matmul_precision('high')", "tf32", "tf32"),
        ("torch.set_float32_matmul_precision('medium')", "tf32", "bf16"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32", "ieee"),
        (f"{NEW} = 'tf32'", "tf32", "tf32"),
        (f"{CUDA} = 'tf32'", "tf32", "ieee"),
        (f"{NEW} = 'tf32'; {CUDA} = 'ieee'", "ieee", "tf32"),
        (f"{CPU} = 'bf16'", "ieee", "bf16"),
        (f"torch.set_float32_matmul_precision('high'); {CUDA} = 'ieee'", "ieee", "tf32"),
        (f"{CUDA} = 'ieee'; torch.set_float32_matmul_precision('high')", "tf32", "tf32"),
    ],
)
def test_every_way_of_setting_it_old_and_new(settings, cuda, cpu):
    code = (
        f"import runpy, torch; {settings};"
        f"of = runpy.run_path({FILE!r})['fp32_precision'];"  # without the package, whose import takes seconds
        "print(of('cuda'), of('cpu'), of('xpu'), of('mps'))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [cuda, cpu, cpu, "ieee"], done.stderr


@pytest.mark.skipif(
    found("torch.backends.mkldnn.matmul") is not None, reason="torch before 2.9 has the old settings alone"
)
@pytest.mark.parametrize(
    ("settings", "cuda", "cpu"),
    [
        ("pass", "ieee", "ieee"),
        ("torch.set_float32_matmul_precision('high')", "tf32", "ieee"),
        ("torch.set_float32_matmul_precision('medium')", "tf32", "bf16"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32", "ieee"),
    ],
)
def test_the_old_settings_where_there_are_no_others(settings, cuda, cpu):
    test_every_way_of_setting_it_old_and_new(settings, cuda, cpu)
