import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mfu_callback import Peak, measure_peak
from mfu_callback.peaks import resolve_peak
from mfu_callback.peaks.cache import (
    DIRECTORY_VARIABLE,
    CacheKey,
    cache_directory,
    cached_peak,
    cached_rates,
    clear_cache,
    confirmed_peak,
    forget_peak,
    keep_best,
    keep_rates,
)

CPU, BF16, FP32 = torch.device("cpu"), torch.bfloat16, torch.float32
PEAK = Peak(flops_per_sec=1e12, name="X", dtype=BF16, source="measured: best of 20 matmuls")


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def key(dtype=BF16):
    return CacheKey.of(CPU, dtype)


def test_what_is_measured_is_there_in_another_process():
    peak = keep_best(replace(PEAK, dtype=FP32), key(FP32))
    code = (
        "import torch; from mfu_callback.peaks.cache import cached_peak;"
        f"torch.set_num_threads({torch.get_num_threads()});"
        "print(repr(cached_peak(torch.device('cpu'), torch.float32)))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == repr(peak), done.stderr


def test_a_higher_peak_replaces_a_lower_one_and_not_the_other_way_round():
    assert keep_best(PEAK, key()) == PEAK
    higher = replace(PEAK, flops_per_sec=1.05e12)
    assert keep_best(higher, key()) == higher
    assert keep_best(PEAK, key()) == higher
    assert cached_peak(CPU, BF16) == higher


NOISY = replace(PEAK, is_noisy=True)


def test_a_noisy_peak_is_returned_where_it_is_the_highest_and_never_stored(directory):
    assert keep_best(NOISY, key()) == NOISY
    assert cached_peak(CPU, BF16) is None
    assert not directory.exists()
    keep_best(PEAK, key())
    assert keep_best(replace(NOISY, flops_per_sec=0.5e12), key()) == PEAK == cached_peak(CPU, BF16)
    slightly_higher = replace(NOISY, flops_per_sec=1.05e12)
    assert keep_best(slightly_higher, key()) == slightly_higher
    assert cached_peak(CPU, BF16) == PEAK


def test_what_a_noisy_peak_exceeds_by_a_tenth_is_forgotten():
    for _ in range(2):
        keep_best(PEAK, key())
    assert confirmed_peak(CPU, BF16) == PEAK
    keep_best(replace(NOISY, flops_per_sec=1.2e12), key())
    assert confirmed_peak(CPU, BF16) is cached_peak(CPU, BF16) is None


def test_a_noisy_peak_that_an_earlier_version_has_stored_is_as_none():
    keep_best(PEAK, key())
    key().path.write_text(key().path.read_text().replace('"is_noisy": false', '"is_noisy": true'))
    assert cached_peak(CPU, BF16) is None


def test_a_peak_that_proved_too_low_can_be_forgotten():
    keep_best(PEAK, key())
    forget_peak(CPU, BF16)
    forget_peak(CPU, BF16)
    assert cached_peak(CPU, BF16) is None


@pytest.mark.parametrize("second", [PEAK, replace(PEAK, flops_per_sec=0.5e12)])
def test_a_confirmed_peak_is_measured_again_after_a_day_and_then_rests_for_another(second):
    day = 24 * 3600
    for at in (100.0, 200.0):
        keep_best(PEAK, key(), now=lambda at=at: at)
    assert confirmed_peak(CPU, BF16, now=lambda: 199 + day) == PEAK
    assert confirmed_peak(CPU, BF16, now=lambda: 200 + day) is None
    assert cached_peak(CPU, BF16) == PEAK
    keep_best(second, key(), now=lambda: 300 + day)
    assert confirmed_peak(CPU, BF16, now=lambda: 299 + 2 * day) == PEAK


def test_a_noisy_sweep_confirms_nothing():
    day = 24 * 3600
    for at in (100.0, 200.0):
        keep_best(PEAK, key(), now=lambda at=at: at)
    keep_best(replace(NOISY, flops_per_sec=0.5e12), key(), now=lambda: 300 + day)
    assert confirmed_peak(CPU, BF16, now=lambda: 300 + day) is None
    assert cached_peak(CPU, BF16) == PEAK


def test_a_peak_that_is_not_kept_leaves_no_file(directory):
    measure_peak("cpu", FP32, time_limit_sec=0.1, use_cache=False)
    assert not directory.exists()


def test_each_setting_has_a_peak_of_its_own(monkeypatch):
    keys = {key(BF16), key(FP32)}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    keys.add(key(BF16))
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.add(key(BF16))
    monkeypatch.setattr("mfu_callback.peaks.cache.cores", lambda: 77)
    keys.add(key(BF16))
    monkeypatch.setattr("mfu_callback.peaks.cache.fp32_precision", lambda device: "tf32")
    keys.add(key(FP32))
    monkeypatch.setattr("mfu_callback.peaks.cache.multiprocessors", lambda device: 14)
    keys.add(key(BF16))
    monkeypatch.setattr("mfu_callback.peaks.cache.instruction_sets", lambda: "AVX512 amx_bf16")
    keys.add(key(BF16))
    keys.add(CacheKey.of(CPU, FP32, BF16))
    assert len(keys) == len({one.path for one in keys}) == 9


RATES = {"float32": {"plain": 2e11, "transposed": 1e11}, "bfloat16": {"plain": 1e9, "transposed": 1e10}}


def test_the_rates_of_dtypes_that_were_compared_are_kept_together():
    both = CacheKey.of(CPU, FP32, BF16)
    assert cached_rates(both) is None
    keep_rates(RATES, both)
    assert cached_rates(both) == RATES
    assert cached_rates(CacheKey.of(CPU, FP32)) is None


@pytest.mark.parametrize(
    "damage", [lambda text: text[:20], lambda text: text.replace("1000000000.0", "NaN"), lambda text: "[]"]
)
def test_damaged_rates_are_as_none(damage):
    both = CacheKey.of(CPU, FP32, BF16)
    keep_rates(RATES, both)
    both.path_of_rates.write_text(damage(both.path_of_rates.read_text()))
    assert cached_rates(both) is None


def test_clearing_forgets_everything():
    keep_best(PEAK, key(BF16))
    keep_best(replace(PEAK, dtype=FP32), key(FP32))
    keep_rates(RATES, CacheKey.of(CPU, FP32, BF16))
    assert clear_cache() == 3
    assert cached_rates(CacheKey.of(CPU, FP32, BF16)) is None
    assert cached_peak(CPU, BF16) is cached_peak(CPU, FP32) is None
    assert clear_cache() == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\x00" * 100,
        lambda text: "[1, 2]",
        lambda text: "null",
        lambda text: json.dumps({"key": {}, "peak": {}}),
        lambda text: "[" * 100_000,
        lambda text: text.replace("bfloat16", "no_such_dtype"),
        lambda text: text.replace('"dtype": "bfloat16", "source"', '"dtype": "float64", "source"'),
        lambda text: text.replace('"dtype": "bfloat16", "source"', '"dtype": "nn", "source"'),
        lambda text: text.replace("1000000000000.0", "Infinity"),
        lambda text: text.replace('"agreeing"', '"agreed"'),
        lambda text: text.replace("1000000000000.0", "-1"),
        lambda text: text.replace("1000000000000.0", "NaN"),
        lambda text: text.replace("1000000000000.0", '"fast"'),
        lambda text: text.replace('"name"', '"nom"'),
    ],
)
def test_a_damaged_file_is_as_none_and_is_written_anew(damage):
    keep_best(PEAK, key())
    key().path.write_text(damage(key().path.read_text()))
    assert cached_peak(CPU, BF16) is None
    assert keep_best(PEAK, key()) == PEAK == cached_peak(CPU, BF16)


def test_a_directory_that_cannot_be_written_only_costs_the_memory(directory):
    directory.write_text("a file where the directory should be")
    assert keep_best(PEAK, key()) == PEAK
    assert cached_peak(CPU, BF16) is None


def test_a_peak_is_confirmed_by_a_second_whole_sweep_that_agrees():
    keep_best(PEAK, key())
    assert confirmed_peak(CPU, BF16) is None
    keep_best(replace(PEAK, flops_per_sec=0.95e12), key(), is_whole=False)
    assert confirmed_peak(CPU, BF16) is None
    keep_best(replace(PEAK, flops_per_sec=0.95e12), key())
    assert confirmed_peak(CPU, BF16) == PEAK
    keep_best(replace(PEAK, flops_per_sec=0.5e12), key())  # on a busy machine
    assert confirmed_peak(CPU, BF16) == PEAK
    keep_best(replace(PEAK, flops_per_sec=2e12), key())  # what was confirmed was measured on a busy one
    assert confirmed_peak(CPU, BF16) is None


def test_a_short_sweep_is_kept_and_not_relied_on():
    for _ in range(2):
        keep_best(PEAK, key(), is_whole=False)
    assert cached_peak(CPU, BF16) == PEAK
    assert confirmed_peak(CPU, BF16) is None


def test_a_user_without_a_home_has_no_cache_and_no_error(monkeypatch):
    def no_home(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(DIRECTORY_VARIABLE)
    monkeypatch.setattr("mfu_callback.peaks.cache.user_cache_path", no_home)
    assert cached_peak(CPU, BF16) is None
    assert keep_best(PEAK, key()) == PEAK
    assert resolve_peak(1e12, CPU, BF16).peak.flops_per_sec == 1e12
    with pytest.raises(RuntimeError, match="home"):
        clear_cache()


def test_the_variable_may_name_the_home_directory(monkeypatch):
    monkeypatch.setenv(DIRECTORY_VARIABLE, "~/peaks")
    assert cache_directory() == Path.home() / "peaks"


def test_a_write_that_fails_leaves_nothing_and_clearing_removes_what_was_left(directory, monkeypatch):
    keep_best(PEAK, key())

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mfu_callback.peaks.cache.os.replace", full)
        keep_best(replace(PEAK, flops_per_sec=2e12), key())
    assert list(directory.iterdir()) == [key().path]
    (directory / "peak-left.tmp").touch()
    assert clear_cache() == 1
    assert list(directory.iterdir()) == []


def test_nothing_is_left_beside_the_peaks(directory):
    keep_best(PEAK, key())
    assert list(directory.iterdir()) == [key().path]


def test_without_the_variable_the_peaks_lie_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv(DIRECTORY_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform.startswith("linux"):
        assert cache_directory() == tmp_path / "mfu-callback"
    assert cache_directory().name in ("mfu-callback", "Cache")
