import pytest
import torch

from mfu_callback import find_peak
from mfu_callback.peaks.find import find_device
from mfu_callback.peaks.tables.unrated import why_unrated
from scripts.comparisons.peak_parts.device_names import NAMES

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def tflops(*arguments, **options):
    peak = find_peak(*arguments, **options)
    return None if peak is None else peak.flops_per_sec / 1e12


def test_the_list_of_names_is_long_and_holds_no_name_twice():
    assert len(NAMES) >= 120
    assert len({named.name for named in NAMES}) == len(NAMES)


@pytest.mark.parametrize("named", NAMES, ids=lambda named: named.name or "(empty)")
def test_the_peak_of_a_name_that_drivers_report(named):
    expected = None if named.tflops_per_sec is None else pytest.approx(named.tflops_per_sec, rel=0.01)
    assert tflops(named.name, getattr(torch, named.dtype)) == expected


@pytest.mark.parametrize("named", [named for named in NAMES if named.dtype == "float16"], ids=lambda named: named.name)
def test_devices_before_ampere_have_no_bf16(named):
    assert find_peak(named.name, BF16) is None


@pytest.mark.parametrize(
    ("name", "multiprocessors", "row"),
    [
        ("NVIDIA GeForce RTX 3080", None, "RTX 3080 10GB"),
        ("NVIDIA GeForce RTX 3080", 68, "RTX 3080 10GB"),
        ("NVIDIA GeForce RTX 3080", 70, "RTX 3080 12GB"),
        ("NVIDIA GeForce RTX 3080", 58, None),
        ("NVIDIA GeForce RTX 3050", None, None),
        ("NVIDIA GeForce RTX 3050", 20, "RTX 3050 8GB"),
        ("NVIDIA GeForce RTX 3050", 18, "RTX 3050 6GB"),
        ("NVIDIA GeForce RTX 3060", 28, "RTX 3060"),
        ("NVIDIA GeForce RTX 3060", 30, None),  # a variant that is sold in China alone
        ("NVIDIA A100-SXM4-40GB", 108, "A100 SXM4 40GB"),
        ("NVIDIA A100-SXM4-40GB", 14, None),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", 48, None),
    ],
)
def test_devices_of_one_name_are_told_apart_by_their_multiprocessors(name, multiprocessors, row):
    device = find_device(name, multiprocessors)
    assert (device and device.name) == row


def test_a_mig_slice_has_its_share_of_the_multiprocessors():
    peak = find_peak("NVIDIA A100-SXM4-40GB MIG 1g.5gb", BF16, multiprocessors=14)
    assert peak.flops_per_sec == pytest.approx(312e12 * 14 / 108)
    assert peak.name == "A100 SXM4 40GB (14/108 of its multiprocessors)"
    assert (peak.memory_bytes, peak.bandwidth_bytes_per_sec) == (None, None)


def test_a_partition_under_the_name_of_the_whole_has_its_share():
    assert tflops("AMD Instinct MI300X", BF16, multiprocessors=304) == pytest.approx(1307.4)
    assert tflops("AMD Instinct MI300X", BF16, multiprocessors=38) == pytest.approx(1307.4 / 8)


def test_a_stack_of_a_max_1550_and_both_stacks_as_one_device():
    name = "Intel(R) Data Center GPU Max 1550"
    rates = [tflops(name, BF16, multiprocessors=cores) for cores in (56, 64, 128)]
    assert rates == pytest.approx([367.0, 419.4, 838.9], rel=1e-3)


@pytest.mark.parametrize(("dies", "expected"), [(110, 191.5), (104, 181.05), (None, None)])
def test_the_dies_of_mi250_and_mi250x_report_one_name(dies, expected):
    assert tflops("AMD Instinct MI250X/MI250", BF16, multiprocessors=dies) == expected


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 7g.80gb", (300, 133, 0)),
        ("AMD Instinct MI300X", (400, 305, 0)),
        ("Intel(R) Data Center GPU Max 1550", (448, 129, 0)),
    ],
)
def test_no_part_is_larger_than_the_whole(name, counts):
    assert [find_peak(name, BF16, multiprocessors=count) for count in counts] == [None] * len(counts)
    with pytest.raises(ValueError, match="multiprocessors=-1 must be a whole number of at least 0"):
        find_peak(name, BF16, multiprocessors=-1)


@pytest.mark.parametrize("name", ["nvidia geforce rtx 2070 super", "NVIDIA GeForce RTX 2070 super"])
def test_only_super_in_capitals_is_a_desktops(name):
    assert find_peak(name, FP16) is None


def test_fp32_runs_on_the_tensor_cores_only_with_tf32():
    assert tflops("NVIDIA A100-SXM4-40GB", FP32) == 19.5
    assert tflops("NVIDIA A100-SXM4-40GB", FP32, tf32=True) == 156
    assert tflops("Tesla T4", FP32, tf32=True) == 8.1  # has no tf32
    assert tflops("AMD Instinct MI355X", FP32, tf32=True) is None  # composes it
    assert tflops("NVIDIA A100-SXM4-40GB", BF16, tf32=True) == 312


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz])
def test_both_kinds_of_fp8_have_one_rate(dtype):
    assert tflops("NVIDIA H100 80GB HBM3", dtype) == 1979
    assert tflops("NVIDIA A100-SXM4-40GB", dtype) is None


def test_int8_and_fp64():
    assert tflops("NVIDIA A100-SXM4-40GB", torch.int8) == 624
    assert tflops("NVIDIA A100-SXM4-40GB", torch.float64) == 19.5
    assert tflops("NVIDIA A100-SXM4-40GB", torch.int64) is None


def test_a_peak_says_what_it_is_and_where_it_is_written():
    peak = find_peak("NVIDIA A100-SXM4-80GB", BF16)
    assert (peak.dtype, peak.kind, peak.is_measured) == (BF16, "datasheet", False)
    assert peak.source.startswith("https://")
    assert (peak.memory_bytes, peak.bandwidth_bytes_per_sec) == (80e9, 2039e9)


def test_a_derived_peak_prints_what_it_is_derived_from():
    peak = find_peak("NVIDIA GeForce RTX 4070", BF16)
    assert peak.kind == "derived"
    assert peak.source.startswith("derived: 46 SMs x 2.475 GHz x 512 FLOPs per clock, https://")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NVIDIA GeForce RTX 4080 Laptop GPU", "power limit"),
        ("NVIDIA GeForce RTX 2070 Super", "power limit"),
        ("Orin", "power limit"),
        ("Apple M1 Max", "power limit"),
        ("NVIDIA GeForce RTX 2080", "laptop"),
        ("Quadro RTX 5000", "laptop"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "slice"),
        ("GRID A100-10C", "virtual"),
        ("NVIDIA A10-24Q", "virtual"),
    ],
)
def test_names_that_no_table_can_rate_are_known_with_the_reason(name, reason):
    assert reason in why_unrated(name)


def test_an_unknown_name_is_merely_unknown():
    assert why_unrated("NVIDIA H900") is None
