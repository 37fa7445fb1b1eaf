import math

import pytest

from mfu_callback.peaks.tables import architectures
from mfu_callback.peaks.tables.device import Architecture, Device
from mfu_callback.peaks.tables.devices import DEVICES, _words
from mfu_callback.peaks.tables.unrated import why_unrated

DTYPES = {"float64", "float32", "tf32", "float16", "bfloat16", "float8", "int8"}
ARCHITECTURES = [value for value in vars(architectures).values() if isinstance(value, Architecture)]


def of_all(devices):
    return pytest.mark.parametrize("device", devices, ids=lambda device: device.name)


def printed(device):
    return device.dense | {dtype: rate / 2 for dtype, rate in device.sparse.items()}


def test_the_table_has_fifty_rows_with_a_vendors_figure():
    assert sum(bool(device.dense or device.sparse) for device in DEVICES) >= 50


@of_all(DEVICES)
def test_a_row_is_whole(device):
    assert device.source.startswith("https://")
    assert device.reported
    assert set(printed(device)) <= DTYPES
    assert not set(device.dense) & set(device.sparse)
    assert all(rate > 0 for rate in printed(device).values())
    assert any(device.rate(dtype) for dtype in DTYPES)


@of_all([device for device in DEVICES if device.units is not None and device.architecture is not None])
def test_a_printed_rate_is_units_times_clock_times_flops_per_clock(device):
    for dtype, rate in printed(device).items():
        derived = device.derived(dtype)
        if derived is not None:
            assert rate == pytest.approx(derived.tflops_per_sec, rel=0.03), dtype


@of_all([device for device in DEVICES if device.architecture is not None])
def test_rates_are_to_each_other_as_the_architecture_has_them(device):
    flops = device.architecture.flops_per_clock
    # At one clock: the wide ones may have another.
    dtypes = [d for d in printed(device) if d in flops and d not in ("float64", "float32")]
    for one in dtypes:
        for other in dtypes:
            assert printed(device)[one] / printed(device)[other] == pytest.approx(flops[one] / flops[other], rel=0.03)


@of_all([device for device in DEVICES if device.architecture is not None])
def test_a_dtype_that_the_architecture_does_not_have_is_not_printed(device):
    assert set(printed(device)) <= set(device.architecture.flops_per_clock)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_an_architecture_has_its_source_and_sane_ratios(architecture):
    flops = architecture.flops_per_clock
    assert architecture.source.startswith("https://")
    assert set(flops) <= DTYPES
    assert all(math.log2(value).is_integer() for value in flops.values())
    order = [flops[dtype] for dtype in ("float64", "float32", "tf32", "float16", "float8") if dtype in flops]
    assert order == sorted(order)
    assert architecture in {device.architecture for device in DEVICES}


def test_rows_that_share_a_name_differ_in_their_units():
    named = [(_words(name), device) for device in DEVICES for name in device.reported]
    for words, device in named:
        others = {id(other): other for other_words, other in named if other_words == words}
        units = [other.units for other in others.values()]
        assert len(set(units)) == len(units), device.name
        assert len(units) == 1 or None not in units


def test_no_two_rows_have_one_name():
    names = [device.name for device in DEVICES]
    assert len(set(names)) == len(names)


@of_all(DEVICES)
def test_no_row_has_a_name_that_laptops_share(device):
    assert not [name for name in device.reported if why_unrated(name) and "Max-Q Workstation" not in name]


def test_a_rate_with_sparsity_is_halved():
    device = Device(name="x", reported=("x",), sparse={"float16": 100}, source="https://x")
    assert (device.rate("float16").tflops_per_sec, device.rate("bfloat16")) == (50, None)


def test_a_rate_that_is_printed_goes_before_one_that_is_derived():
    chip = Architecture(name="a", flops_per_clock={"float16": 1000, "float32": 100}, source="https://a")
    row = {"architecture": chip, "units": 10, "clock_ghz": 2.0, "wide_clock_ghz": 1.0}
    device = Device(name="x", reported=("x",), dense={"float16": 21}, source="https://x", **row)
    assert (device.rate("float16").tflops_per_sec, device.rate("float16").kind) == (21, "datasheet")
    assert device.derived("float16").tflops_per_sec == 20
    assert (device.rate("float32").tflops_per_sec, device.rate("float32").kind) == (1, "derived")
