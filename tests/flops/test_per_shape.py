import math
from dataclasses import dataclass

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from mfu_callback import FlopCount
from mfu_callback.flops.per_shape import CountsByShape, TrainingFlops, form_of, shape_of
from mfu_callback.meter.samples import count_samples
from mfu_callback.meter.tokens import count_tokens


@dataclass
class Batch:
    ids: torch.Tensor
    name: str


def jagged(*lengths):
    return torch.nested.nested_tensor([torch.zeros(length, 8) for length in lengths], layout=torch.jagged)


def count(forward):
    return FlopCount(forward=forward, thop=forward, functional=0)


def counts(**arguments):
    return CountsByShape(lambda c: TrainingFlops(3.0 * c.forward, 0.0) if c.forward else None, **arguments)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), True),
        (torch.zeros(2, 3), torch.zeros(3, 2), False),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2)}, True),
        ({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, False),
        ((torch.zeros(2), "x", 3), (torch.zeros(2), "y", 4), True),
        ([torch.zeros(2), torch.zeros(2)], [torch.zeros(4)], False),
        (Batch(torch.zeros(2), "x"), Batch(torch.zeros(2), "y"), True),
        (Batch(torch.zeros(2), "x"), Batch(torch.zeros(3), "x"), False),
        (None, "nothing with a shape", True),
    ],
)
def test_batches_are_alike_if_their_tensors_have_the_same_names_and_shapes(one, other, same):
    assert (shape_of(one) == shape_of(other)) is same
    assert (hash(shape_of(one)) == hash(shape_of(other))) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3), True),
        (torch.zeros(2, 3), torch.zeros(3, 2), False),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), False),
        ({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, False),
        ([torch.zeros(2), "x"], [torch.zeros(2), "y"], True),
        ([torch.zeros(2)], {"0": torch.zeros(2)}, False),
        (Batch(torch.zeros(2), "x"), Batch(torch.zeros(2), "y"), True),
        (Batch(torch.zeros(2), "x"), Batch(torch.zeros(3), "x"), False),
        (pack_sequence([torch.zeros(3), torch.zeros(1)]), pack_sequence([torch.ones(3), torch.ones(1)]), True),
        (pack_sequence([torch.zeros(3), torch.zeros(1)]), pack_sequence([torch.zeros(2)] * 2), False),
        (jagged(3, 5), jagged(5, 3), True),
        (jagged(3, 5), jagged(3, 4), False),
        (jagged(3, 5), jagged(3, 3, 2), False),
    ],
)
def test_batches_of_one_form_have_the_same_tokens_samples_and_shape(one, other, same):
    assert (form_of(one) == form_of(other)) is same
    assert not same or hash(form_of(one)) == hash(form_of(other))
    assert not same or (count_samples(one), count_tokens(one), shape_of(one)) == (
        count_samples(other),
        count_tokens(other),
        shape_of(other),
    )


def test_a_jagged_batch_has_the_shape_of_its_values():
    jagged = torch.nested.nested_tensor([torch.zeros(3, 8), torch.zeros(5, 8)], layout=torch.jagged)
    assert shape_of(jagged).sizes == (8, 8)


class Graph:
    """An object whose parts lead back to it."""

    def __init__(self, nodes):
        self.nodes, self.itself = torch.zeros(nodes), self


def test_an_object_has_the_shapes_of_its_tensors():
    assert shape_of(Graph(3)) == shape_of(Graph(3)) != shape_of(Graph(4))
    assert shape_of(Graph(3)).sizes == (3,)


def test_a_shape_is_counted_once():
    known, shape = counts(), shape_of(torch.zeros(2, 3))
    assert known.needs_count(shape)
    assert math.isnan(known.flops(shape).model)
    assert known.add(shape, count(10))
    assert not known.needs_count(shape)
    assert known.flops(shape)[:2] == (30.0, 0.0)


def test_a_count_that_comes_to_nothing_is_tried_three_times():
    known, shape = counts(), shape_of(torch.zeros(2, 3))
    assert known.add(shape, count(0))
    assert known.add(shape, count(0))
    assert known.needs_count(shape)
    assert not known.add(shape, count(0))
    assert not known.needs_count(shape)
    assert math.isnan(known.flops(shape).model)


def test_further_shapes_are_scaled_from_the_most_similar_length():
    known = counts()
    for length in range(1, 33):
        shape = shape_of(torch.zeros(2, length))
        assert known.needs_count(shape)
        known.add(shape, count(2 * length**2))
    assert known.is_full
    assert not known.needs_count(shape_of(torch.zeros(2, 40)))
    assert known.flops(shape_of(torch.zeros(4, 40))).model == pytest.approx(3 * 2 * 32**2 * (4 * 40) / (2 * 32))
    assert math.isnan(known.flops(shape_of({"other": torch.zeros(2, 8)})).model)


def test_another_state_of_the_model_is_counted_anew():
    known, shape = counts(), shape_of(torch.zeros(2, 3))
    known.add(shape, count(10))
    known.model_state = "thawed"
    assert known.needs_count(shape)
    known.add(shape, count(20))
    assert known.flops(shape).model == 60.0
    known.model_state = None
    assert known.flops(shape).model == 30.0


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_a_strided_nested_batch_has_the_shapes_of_its_components():
    one, other = ([torch.zeros(3, 8), torch.zeros(n, 8)] for n in (5, 6))
    assert shape_of(torch.nested.nested_tensor(one)) != shape_of(torch.nested.nested_tensor(other))
    assert count_samples(torch.nested.nested_tensor(one)) == 2


def test_long_plain_data_is_not_looked_through():
    assert shape_of({"x": torch.zeros(2), "rows": list(range(10**6))}).structure == (
        ("x", (1, torch.float32)),
        ("rows", None),
    )
