"""Google's TPUs, as torch_xla sees them: a chip is one device, except in v2, v3 and v7x, where it is two."""

from __future__ import annotations

from mfu_callback.peaks.tables.device import Device

_DOCS = "https://docs.cloud.google.com/tpu/docs"

GOOGLE: tuple[Device, ...] = (
    Device(
        name="TPU v2 (one of two cores)",
        reported=("TPU v2",),
        dense={"bfloat16": 45 / 2},
        memory_gb=16 / 2,
        bandwidth_gb_per_sec=700 / 2,
        source=f"{_DOCS}/v2",
    ),
    Device(
        name="TPU v3 (one of two cores)",
        reported=("TPU v3",),
        dense={"bfloat16": 123 / 2},
        memory_gb=32 / 2,
        bandwidth_gb_per_sec=900 / 2,
        source=f"{_DOCS}/v3",
    ),
    Device(
        name="TPU v4",
        reported=("TPU v4",),
        dense={"bfloat16": 275, "int8": 275},
        memory_gb=32,
        bandwidth_gb_per_sec=1200,
        source=f"{_DOCS}/v4",
    ),
    Device(
        name="TPU v5e",
        reported=("TPU v5 lite", "TPU v5e", "TPU v5litepod", "TPU v5lite_pod"),
        dense={"bfloat16": 197, "int8": 393},
        memory_gb=16,
        bandwidth_gb_per_sec=819,
        source=f"{_DOCS}/v5e",
    ),
    Device(
        name="TPU v5p",
        reported=("TPU v5", "TPU v5p"),
        dense={"bfloat16": 459},
        memory_gb=95,
        bandwidth_gb_per_sec=2765,
        source=f"{_DOCS}/v5p",
    ),
    Device(
        name="TPU v6e",
        reported=("TPU v6 lite", "TPU v6e"),
        dense={"bfloat16": 918, "int8": 1836},
        memory_gb=32,
        bandwidth_gb_per_sec=1638,
        source=f"{_DOCS}/v6e",
    ),
    Device(
        name="TPU v7x (one of two chiplets)",
        reported=("TPU7x", "TPU v7x"),
        dense={"bfloat16": 2307 / 2, "float8": 4614 / 2},
        memory_gb=192 / 2,
        bandwidth_gb_per_sec=7380 / 2,
        source=f"{_DOCS}/tpu7x",
    ),
)
