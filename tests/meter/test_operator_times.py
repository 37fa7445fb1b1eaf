"""Profiles of real steps on the CPU, and events as CUDA has them, which here are made by hand."""

from time import perf_counter
from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from mfu_callback.meter.operator_times import Operator, OperatorTimes, Took

CPU = torch.device("cpu")


def test_operators_and_gaps_are_the_time_that_the_host_measures():
    """An identity of accounting: a step in which Python sleeps a third, by the profiler's and by our own clock."""
    layer, batch = torch.nn.Linear(512, 512), torch.ones(512, 512)

    def slow(tensor):
        end = perf_counter() + 0.02
        while perf_counter() < end:
            pass
        return tensor.sum()

    errors = []
    for _ in range(5):  # the process may be interrupted between the two clocks
        times, own = OperatorTimes(CPU), {}
        forward = times.during("forward", lambda: slow(layer(batch)))
        backward = times.during("backward", lambda loss: loss.backward())
        with times.profiling():
            stamps = [perf_counter()]
            loss = forward()
            stamps.append(perf_counter())
            backward(loss)
            stamps.append(perf_counter())
        own = {"forward": stamps[1] - stamps[0], "backward": stamps[2] - stamps[1]}
        read = times.read(())
        ran = {phase: sum(took.seconds for one, took in read.operators.items() if one.phase == phase) for phase in own}
        assert all(0 < ran[phase] <= read.phases_sec[phase] for phase in own)
        assert read.phases_sec["forward"] - ran["forward"] >= 0.02
        errors.append(max(abs(read.phases_sec[phase] / own[phase] - 1) for phase in own))
        if errors[-1] < 0.03:
            return
    pytest.fail(f"{errors}")


def test_what_a_known_operator_calls_is_its_own_time():
    times, image = OperatorTimes(CPU), torch.ones(2, 3, 8, 8)
    layer = torch.nn.Conv2d(3, 4, 3)
    with times.profiling():
        layer(image)
    shapes = ((2, 3, 8, 8), (4, 3, 3, 3), (4,))
    names = {operator.name for operator in times.read([("aten::convolution", shapes)]).operators}
    assert "aten::convolution" in names
    assert not names & {"aten::_convolution", "aten::mkldnn_convolution", "aten::_nnpack_spatial_convolution"}


def test_what_is_walked_back_inside_a_forward_pass_is_backward():
    """A penalty on gradients: one product forward, one for the gradient in it, and two for each of both backward."""
    times, layer = OperatorTimes(CPU), torch.nn.Linear(64, 32, bias=False)

    def penalty():
        rows = torch.ones(8, 64, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer(rows).square().sum(), rows, create_graph=True)
        return gradient.square().sum()

    with times.profiling():
        loss = times.during("forward", penalty)()
        times.during("backward", lambda: loss.backward())()
    read = times.read(())
    products = dict.fromkeys(("forward", "backward"), 0)
    for one, took in read.operators.items():
        products[one.phase] += took.calls if one.name == "aten::mm" else 0
    assert products == {"forward": 1, "backward": 1 + 2 * 2}
    assert all(read.phases_sec[phase] > 0 for phase in products)
    ran = {phase: sum(took.seconds for one, took in read.operators.items() if one.phase == phase) for phase in products}
    assert all(ran[phase] <= read.phases_sec[phase] for phase in products)


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_profiler_with_a_schedule_is_left_alone(waiting):
    """Starting a second one while the first is in its warm-up ends the process."""
    traces = []
    plan = schedule(wait=waiting, warmup=1, active=1, repeat=1)
    times = OperatorTimes(CPU)
    with profile(
        activities=[ProfilerActivity.CPU], schedule=plan, on_trace_ready=lambda one: traces.append(len(one.events()))
    ) as users:
        for _ in range(waiting):
            users.step()
        with pytest.raises(RuntimeError, match="another profiler is about to start"), times.profiling():
            pass
        users.step()
        with pytest.raises(RuntimeError, match="another profiler is active"), times.profiling():
            pass
        torch.ones(3).sum()
        users.step()
    assert len(traces) == 1
    assert traces[0] > 0
    assert times.steps == 0


def test_the_profilers_library_writes_nothing(capfd):
    times = OperatorTimes(CPU)
    for _ in range(2):
        with times.profiling():
            torch.ones(3).sum()
    assert capfd.readouterr() == ("", "")


def fake_event(name, start, end, *, device_us=0.0, parent=None, shapes=(), device=DeviceType.CPU):
    """An event as torch's profiler has it; made up, not of a GPU."""
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        self_device_time_total=device_us,
        self_cpu_time_total=end - start,
        cpu_parent=parent,
        input_shapes=[list(shape) for shape in shapes],
        device_type=device,
    )


def test_on_cuda_the_time_is_that_of_the_kernels_and_gaps_are_what_they_leave():
    """With made-up events: a compiled kernel has no operator, and backward runs in another thread."""
    attention = fake_event("aten::_scaled_dot_product_flash_attention", 10, 40, shapes=((1, 2, 8, 4),))
    graph = fake_event("## Call CompiledFxGraph f52oe7 ##", 50, 90)
    events = [
        fake_event("mfu_callback: forward", 0, 1000),
        attention,
        fake_event("aten::_flash_attention_forward", 12, 30, device_us=400.0, parent=attention, shapes=((1, 8, 2, 4),)),
        fake_event("pytorch_flash::flash_fwd_kernel", 100, 500, device=DeviceType.CUDA),
        graph,
        fake_event("triton_poi_fused_gelu_0", 60, 70, device_us=100.0, parent=graph),
        fake_event("aten::t", 80, 85),
        fake_event("mfu_callback: backward", 1000, 3000),
        fake_event("aten::mm", 1100, 1110, device_us=1500.0, shapes=((8, 8), (8, 8))),
    ]
    times = OperatorTimes(torch.device("cuda"))
    times._profiles.append(SimpleNamespace(events=lambda: events))
    read = times.read([("aten::_scaled_dot_product_flash_attention", ((1, 2, 8, 4),))])
    took = {operator: one for operator, one in read.operators.items() if one.seconds}
    assert took == {
        Operator("aten::_scaled_dot_product_flash_attention", ((1, 2, 8, 4),), "forward"): Took(1, pytest.approx(4e-4)),
        Operator("triton_poi_fused_gelu_0", (), "forward"): Took(1, pytest.approx(1e-4)),
        Operator("aten::mm", ((8, 8), (8, 8)), "backward"): Took(1, pytest.approx(1.5e-3)),
    }
    assert read.phases_sec == {"forward": pytest.approx(1e-3), "backward": pytest.approx(2e-3)}
