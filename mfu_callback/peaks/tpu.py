"""Google's TPUs, as torch_xla sees them."""

from __future__ import annotations

from mfu_callback.peaks.device import Device

TPUS: tuple[Device, ...] = (
    Device(
        name="TPU v4",
        reported=("TPU v4",),
        dense={"bfloat16": 275, "int8": 275},
        memory_gb=32,
        bandwidth_gb_per_sec=1228,
        source="https://cloud.google.com/tpu/docs/v4",
    ),
)
