import subprocess
import sys

import pytest
import torch

from mfu_callback import Peak
from mfu_callback.peaks.shapes import Shape
from scripts.checks import measured_peak as check_measured_peak


def peak(rate, source="measured: best of 60 matmuls of 1536 x 512 x 768 on 2026-11-24, 1.02 times their median"):
    return Peak(flops_per_sec=rate, name="test", dtype=torch.float32, source=source)


def test_it_compares_pair_by_pair_and_prints_two_peaks():
    options = ["--dtype", "fp32", "--pairs", "3", "--pause", "0"]
    command = [sys.executable, check_measured_peak.__file__, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2].startswith("first: ")
    assert lines[3].startswith("3 pairs at ")
    assert lines[4].startswith("our rate over the straight loop's")
    assert lines[5].startswith("second, 0 s later: ")
    assert float(lines[6].split()[3].rstrip(";")) >= 1


@pytest.mark.parametrize("transposed", [False, True])
def test_the_shape_is_read_from_what_a_peak_says(transposed):
    source = f"measured: best of 6 matmuls of 1536 x 512 x 768{' transposed' if transposed else ''} on 2026-11-24"
    assert check_measured_peak.shape_of(peak(1e12, source)) == Shape(1536, 512, 768, transposed=transposed)


def test_what_is_kept_of_two_peaks_is_the_higher_one():
    assert check_measured_peak.kept_of(peak(1e12), peak(1.05e12)).flops_per_sec == 1.05e12
    assert check_measured_peak.kept_of(peak(1.05e12), peak(1e12)).flops_per_sec == 1.05e12
