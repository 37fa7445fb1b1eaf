import math
import random
from dataclasses import dataclass

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from mfu_callback import FlopCount
from mfu_callback.flops.per_shape import CountsByShape, form_of, shape_of
from mfu_callback.flops.repeated_counts import TrainingFlops
from mfu_callback.flops.shape_law import ShapeLaw
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
    assert shape_of(jagged).shapes == ((8, 8),)


class Graph:
    """An object whose parts lead back to it."""

    def __init__(self, nodes):
        self.nodes, self.itself = torch.zeros(nodes), self


def test_an_object_has_the_shapes_of_its_tensors():
    assert shape_of(Graph(3)) == shape_of(Graph(3)) != shape_of(Graph(4))
    assert shape_of(Graph(3)).shapes == ((3,),)


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


def counted(known, batches, flops):
    """Counts batches until no more are needed; returns how many were."""
    number = 0
    for batch in batches:
        if known.needs_count(shape_of(batch)):
            known.add(shape_of(batch), count(flops(batch)))
            number += 1
    return number


def texts(number, seed=0):
    """Batches of any number of texts of any length, and their targets."""
    sizes = random.Random(seed)
    shapes = [(sizes.randint(1, 16), sizes.randint(4, 400)) for _ in range(number)]
    return [(torch.zeros(shape), torch.zeros(shape)) for shape in shapes]


def of_transformer(batch):
    samples, length = batch[0].shape
    return samples * (3_000_000 * length + 5_000 * length**2)


def test_further_shapes_follow_a_law_of_second_order_in_the_length():
    known = counts()
    assert counted(known, texts(60), of_transformer) == 32
    assert known.error_of_law is None
    for batch in texts(20, seed=1):
        assert known.flops(shape_of(batch)).model == pytest.approx(3 * of_transformer(batch), rel=1e-9)
    assert known.error_of_law < 1e-9
    assert math.isnan(known.flops(shape_of({"other": torch.zeros(2, 8)})).model)


def test_source_and_target_vary_each_by_itself():
    sizes = random.Random(0)
    shapes = [[sizes.randint(1, 300) for _ in range(3)] for _ in range(60)]

    def flops(batch):
        samples, source, target = len(batch["src"]), batch["src"].size(1), batch["tgt"].size(1)
        return samples * (100 * source + 200 * target + 3 * source**2 + 3 * target**2 + 5 * source * target)

    batches = [{"src": torch.zeros(b, s), "tgt": torch.zeros(b, t)} for b, s, t in shapes]
    known = counts()
    assert counted(known, batches, flops) == 32
    assert known.flops(shape_of(batches[-1])).model == pytest.approx(3 * flops(batches[-1]), rel=1e-9)


def test_images_of_their_own_sizes_follow_the_sums_of_their_pixels_and_of_their_squares():
    sizes = random.Random(0)
    batches = [[torch.zeros(3, sizes.randint(20, 60), sizes.randint(20, 60)) for _ in range(8)] for _ in range(60)]

    def flops(batch):
        return sum(10 * image.numel() + image.numel() ** 2 for image in batch)

    known = counts()
    assert counted(known, batches, flops) == 32
    assert known.flops(shape_of(batches[-1])).model == pytest.approx(3 * flops(batches[-1]), rel=1e-9)


def test_where_no_law_fits_more_shapes_are_counted_and_the_error_is_not_known():
    noise = random.Random(1)
    known, batches = counts(), texts(400)
    assert counted(known, batches, lambda batch: of_transformer(batch) * noise.uniform(0.5, 2)) == 256
    assert not math.isnan(known.flops(shape_of(batches[-1])).model)
    assert known.error_of_law > 0.01


def test_the_error_of_a_law_is_that_of_counts_it_was_not_fitted_to():
    noise = random.Random(1)
    rows = [(batch, of_transformer(batch) * noise.uniform(0.95, 1.05)) for batch in texts(100)]
    fitted, others = rows[:40], rows[40:]
    law = ShapeLaw(
        [len(batch[0]) for batch, _ in fitted],
        [shape_of(batch).shapes for batch, _ in fitted],
        [flops for _, flops in fitted],
    )
    assert 0.03 < law.error < 0.15
    off = [abs(law.flops(len(batch[0]), shape_of(batch).shapes) / flops - 1) for batch, flops in others]
    assert sum(one <= law.error for one in off) >= 0.9 * len(off)


def test_too_few_counts_give_no_law():
    assert ShapeLaw([], [], []).error == math.inf
    assert ShapeLaw([2, 2, 2], [((2, 4),), ((2, 5),), ((2, 6),)], [16.0, 25.0, 36.0]).error == math.inf


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
