import pytest
import torch

from mfu_callback.peaks.bandwidth import measure_bandwidth, measure_product, size_class

CPU = torch.device("cpu")


class FakeTimer:
    """Runs a call once, and says that each takes some seconds."""

    def __init__(self, seconds):
        self._seconds = seconds

    def seconds_of(self, call, count):
        call()
        return [self._seconds] * count


def test_bytes_read_and_written_over_the_time_of_the_best_copy():
    assert measure_bandwidth(CPU, time_limit_sec=0.0, timer=FakeTimer(0.5)) == 2 * 2**27 / 0.5


def test_a_product_is_measured_in_flops():
    assert measure_product(CPU, torch.float32, (8, 4, 2), time_limit_sec=0.0, timer=FakeTimer(2.0)) == 64


def test_real_rates_are_above_zero():
    assert measure_product(CPU, torch.float32, (32, 32, 32), time_limit_sec=0.01) > 0


@pytest.mark.parametrize(
    ("sizes", "most_flops", "rounded"),
    [
        ((512, 768, 3072), 1e12, (512, 1024, 4096)),
        ((1, 700, 3), 1e12, (1, 512, 4)),
        ((2048, 768, 50257), 1e12, (2048, 1024, 8192)),  # more than 2**25 numbers in the three matrices
        ((2048, 2048, 2048), 4e9, (1024, 1024, 1024)),
        ((512, 2048, 2048), 1e9, (512, 512, 512)),
        ((8, 8, 8), 0.0, (1, 1, 1)),
    ],
)
def test_the_class_of_a_shape_is_in_powers_of_two_and_not_too_large(sizes, most_flops, rounded):
    assert size_class(sizes, most_numbers=2**25, most_flops=most_flops) == rounded
