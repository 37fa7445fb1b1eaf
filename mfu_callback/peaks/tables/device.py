"""A row of the device table, and the rates that are derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The FLOPs per clock of one unit in a family of devices.

    Attributes:
        name: The family, as its vendor names it.
        flops_per_clock: Dense FLOPs of one unit in one clock by dtype, with accumulation in fp32. A multiply-accumulate
            counts as 2. These are the rates of the tensor (matrix) units if the family has them for the dtype.
        source: The URL of the whitepaper.
        unit: The vendor's name for a unit, in the plural.
        is_divisible: Whether drivers show a part of such a device under the name of the whole device.
        most_together: The largest number of its devices that a driver may show as one device.
        composes_tf32: Whether libraries compute one TF32 matmul as several matmuls of another dtype.
    """

    name: str
    flops_per_clock: Mapping[str, int] = field(hash=False)
    source: str
    unit: str = "SMs"
    is_divisible: bool = False
    composes_tf32: bool = False
    most_together: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A device's rate at one dtype.

    Attributes:
        tflops_per_sec: The dense rate, in 1e12 FLOP/s.
        kind: "datasheet" if the vendor prints the rate, "derived" if it is units x clock x FLOPs per clock.
        source: The URL; for a derived rate the product and the URLs of its factors.
    """

    tflops_per_sec: float
    kind: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device as torch sees it: if the two halves of a card are two devices, a row is one half.

    Attributes:
        name: The device as its vendor names it.
        reported: The names that drivers report, without the vendor's name. Several rows may share one.
        dense: Rates as the vendor prints them, in 1e12 FLOP/s (TOPS for int8) by dtype; "tf32" is fp32 on tensor cores.
        sparse: Rates that the vendor prints with structured sparsity; a dense rate is half of the sparse one.
        source: The URL of the vendor's page, datasheet or whitepaper.
        architecture: The family of the device.
        units: The number of its enabled streaming multiprocessors, compute units or cores.
        clock_ghz: The boost clock for which the rates are given.
        wide_clock_ghz: The boost clock for fp32 and fp64, if it differs.
        memory_gb: The memory's size in 1e9 bytes, as the vendor prints it.
        bandwidth_gb_per_sec: The memory's bandwidth in 1e9 bytes per second.
        is_variant: Whether this is a rarer device that reports another device's name and has nearly its rate. It is
            found only if the driver reports the number of units.
    """

    name: str
    reported: tuple[str, ...]
    source: str
    dense: Mapping[str, float] = field(default_factory=dict, hash=False)
    sparse: Mapping[str, float] = field(default_factory=dict, hash=False)
    architecture: Architecture | None = None
    units: int | None = None
    clock_ghz: float | None = None
    wide_clock_ghz: float | None = None
    memory_gb: float | None = None
    bandwidth_gb_per_sec: float | None = None
    is_variant: bool = False

    def rate(self, dtype: str) -> Rate | None:
        """The rate at a dtype ("float16", "tf32", ...): the printed one if there is one, else the derived one."""
        if dtype in self.dense:
            return Rate(tflops_per_sec=self.dense[dtype], kind="datasheet", source=self.source)
        if dtype in self.sparse:
            return Rate(tflops_per_sec=self.sparse[dtype] / 2, kind="datasheet", source=self.source)
        return self.derived(dtype)

    def derived(self, dtype: str) -> Rate | None:
        """The rate as units x clock x FLOPs per clock; None unless all three are known."""
        architecture, units, clock_ghz = self.architecture, self.units, self._clock_ghz(dtype)
        flops = None if architecture is None else architecture.flops_per_clock.get(dtype)
        if architecture is None or flops is None or units is None or clock_ghz is None:
            return None
        product = f"{units} {architecture.unit} x {clock_ghz:g} GHz x {flops} FLOPs per clock"
        return Rate(
            tflops_per_sec=units * clock_ghz * flops / 1e3,
            kind="derived",
            source=f"derived: {product}, {architecture.source}; {self.source}",
        )

    def _clock_ghz(self, dtype: str) -> float | None:
        is_wide = dtype in ("float32", "float64")
        return self.wide_clock_ghz if is_wide and self.wide_clock_ghz is not None else self.clock_ghz
