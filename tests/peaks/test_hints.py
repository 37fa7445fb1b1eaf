"""What a run is told about its settings, on machines of given rates."""

import pytest
import torch

from mfu_callback.peaks import DtypeRate, Peak, fastest_peak, hints_for
from mfu_callback.peaks.hints import rates_text

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


def texts(*arguments, **options):
    """The sentences of the hints."""
    return tuple(hint.text for hint in hints_for(*arguments, **options))


def rates(**in_training):
    """Rates in GFLOP/s by dtype, or a pair: in training and in the better layout."""
    return {
        dtype: DtypeRate(
            peak=Peak(flops_per_sec=pair[-1] * 1e9, name="X", dtype=dtype, source="measured: in turns"),
            in_training=pair[0] * 1e9,
        )
        for name, value in in_training.items()
        for dtype, pair in [(getattr(torch, name), value if isinstance(value, tuple) else (value,))]
    }


AVX2 = rates(float32=(142, 165), bfloat16=(2.4, 16.5))
AMX = rates(float32=240, bfloat16=(570, 1000))
A100 = rates(float32=19_500, float16=312_000, bfloat16=312_000)


@pytest.fixture(autouse=True)
def all_cores(monkeypatch):
    """All cores are used."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr("mfu_callback.peaks.hints.cores", lambda: 4)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize(
    ("dtype", "known", "hint"),
    [
        (BF16, AVX2, 'float32 matmuls run 59 times as fast as bfloat16 on this device: precision="32-true".'),
        (FP32, AVX2, None),
        (BF16, AMX, None),
        (FP32, AMX, 'bfloat16 matmuls run 2.4 times as fast as float32 on this device: precision="bf16-true".'),
        (FP32, A100, 'bfloat16 matmuls run 16 times as fast as float32 on this device: precision="bf16-true".'),
        (
            FP32,
            rates(float32=8_100, float16=65_000),
            'float16 matmuls run 8.0 times as fast as float32 on this device: precision="16-mixed".',
        ),
        (FP32, rates(float32=100, bfloat16=199), None),
        (torch.float8_e4m3fn, A100, None),
        (FP32, rates(bfloat16=100), None),
        (FP32, rates(float32=100), None),
        (FP32, {}, None),
    ],
)
def test_a_dtype_that_is_twice_as_fast_is_named_with_its_precision(dtype, known, hint):
    assert texts(CPU, dtype, known) == (() if hint is None else (hint,))


def test_a_hint_knows_how_many_times_as_fast_the_matmuls_would_be(monkeypatch):
    assert [hint.times for hint in hints_for(CPU, BF16, rates(float32=100, bfloat16=25))] == [4.0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert [hint.times for hint in hints_for(CPU, BF16, rates(float32=100, bfloat16=25))] == [4.0, 4.0]
    assert [hint.times for hint in hints_for(CPU, FP32, AMX)] == [4.0, 570 / 240]  # the larger gain first


def test_a_faster_dtype_that_is_not_trained_in_is_not_proposed():
    assert texts(CPU, FP32, rates(float32=100, float64=900)) == ()


@pytest.mark.parametrize(
    ("threads", "cores", "processes", "share"),
    [(1, 4, 1, 4), (1, 4, 2, 2), (1, 4, 4, None), (1, 1, 1, None), (2, 4, 1, None)],
)
def test_one_thread_where_there_are_more_cores(monkeypatch, threads, cores, processes, share):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("mfu_callback.peaks.hints.cores", lambda: cores)
    hints = texts(CPU, FP32, AVX2, processes=processes)
    assert hints == (
        ()
        if share is None
        else (
            f"torch computes with one thread where each process has {share} cores: unset OMP_NUM_THREADS, or call"
            f" torch.set_num_threads({share}).",
        )
    )
    assert texts(torch.device("mps"), FP32, AVX2) == ()


def test_hardware_threads_are_no_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 1)
    assert texts(CPU, FP32, AVX2) == ()


def test_a_variable_that_is_not_set_is_not_mentioned(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS")
    (hint,) = texts(CPU, FP32, AVX2)
    assert hint == "torch computes with one thread where each process has 4 cores: call torch.set_num_threads(4)."


@pytest.fixture
def gpu(monkeypatch):
    """A GPU's name, and whether TF32 is on."""
    machine = {"name": "NVIDIA A100-SXM4-40GB", "precision": "ieee"}
    monkeypatch.setattr("mfu_callback.peaks.hints.device_name", lambda device: machine["name"])
    monkeypatch.setattr("mfu_callback.peaks.hints.multiprocessors", lambda device: None)
    monkeypatch.setattr("mfu_callback.peaks.hints.fp32_precision", lambda device: machine["precision"])
    return machine


TF32 = (
    "TF32 is off, with which this device multiplies float32 8.0 times as fast:"
    ' torch.set_float32_matmul_precision("high").'
)


def test_tf32_that_is_off_comes_after_the_dtype(gpu):
    assert texts(GPU, FP32, {}) == (TF32,)
    assert texts(GPU, FP32, A100) == (
        'bfloat16 matmuls run 16 times as fast as float32 on this device: precision="bf16-true".',
        TF32,
    )


@pytest.mark.parametrize(
    ("name", "precision", "dtype"),
    [
        ("NVIDIA A100-SXM4-40GB", "tf32", FP32),
        ("NVIDIA A100-SXM4-40GB", "ieee", BF16),
        ("Tesla T4", "ieee", FP32),
        ("no such device", "ieee", FP32),
    ],
)
def test_tf32_is_not_mentioned_where_it_is_on_or_missing_or_not_used(gpu, name, precision, dtype):
    gpu |= {"name": name, "precision": precision}
    assert texts(GPU, dtype, {}) == ()


def test_the_fastest_peak():
    assert fastest_peak(AVX2) is AVX2[FP32].peak
    assert fastest_peak(AMX) is AMX[BF16].peak
    assert fastest_peak({}) is None


def test_the_rates_as_text():
    assert rates_text(AVX2) == "float32 142 GFLOP/s, bfloat16 2.4 (16.5 in its better layout)"
    assert rates_text(AMX) == "bfloat16 570 GFLOP/s, float32 240"
    assert rates_text(rates(float32=19_500, bfloat16=312_000)) == "bfloat16 312 TFLOP/s, float32 19.5"
    assert rates_text({}) == ""
