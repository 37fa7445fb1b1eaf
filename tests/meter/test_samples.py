"""Samples of batches whose samples are not the first dimension of the first tensor."""

from types import SimpleNamespace

import pytest
import torch

from mfu_callback.meter.samples import count_samples

EIGHT = range(8)


def images(number=8, channels=3, size=32):
    return [torch.zeros(channels, size, size) for _ in range(number)]


def ragged_images():
    return [torch.zeros(3, 20 + number, 30) for number in EIGHT]


def texts():
    return [torch.zeros(5 + number, dtype=torch.long) for number in EIGHT]


def boxes():
    return [{"boxes": torch.zeros(number, 4), "labels": torch.zeros(number)} for number in EIGHT]


@pytest.mark.parametrize(
    "batch",
    [
        (tuple(images()), tuple(boxes())),
        [images(), boxes()],
        (images(), None),
        images(),
        tuple(images()),
        ragged_images(),
        images(channels=1),
        {"pixel_values": images(), "labels": boxes()},
        [{"image": image, "instances": one} for image, one in zip(images(), boxes(), strict=True)],
        [{"image": image, "height": 32, "width": 32} for image in images()],
        list(zip(images(), boxes(), strict=True)),
        list(zip(images(), [torch.tensor(number) for number in EIGHT], strict=True)),
        tuple(zip(*((image, 3) for image in images()), strict=True)),
        texts(),
        (texts(), torch.zeros(8)),
        list(zip(texts(), [torch.tensor(1.0)] * 8, strict=True)),
        tuple(zip(*((torch.zeros(16), torch.tensor(1)) for _ in EIGHT), strict=True)),
        [{"input_ids": torch.zeros(16), "labels": torch.zeros(16)} for _ in EIGHT],
    ],
)
def test_an_item_for_each_sample_counts_items(batch):
    assert count_samples(batch) == 8


@pytest.mark.parametrize("number", [1, 3, 4, 6])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: [torch.zeros(n, 40, 16), torch.zeros(n)],
        lambda n: (torch.zeros(n, 3, 32, 32), [{"boxes": torch.zeros(7, 4)} for _ in range(n)]),
        lambda n: ((torch.zeros(n, 5), torch.zeros(n, 7)), torch.zeros(n)),
        lambda n: ((torch.zeros(n), torch.zeros(n)), torch.zeros(n)),
        lambda n: {"src": torch.zeros(n, 9, dtype=torch.long), "tgt": torch.zeros(n, 11, dtype=torch.long)},
        lambda n: [{"input_ids": torch.zeros(n, 9), "labels": torch.zeros(n, 9)}],
        lambda n: SimpleNamespace(x=torch.zeros(n, 9)),
    ],
)
def test_inputs_and_targets_of_all_samples_count_the_first_dimension(make, number):
    assert count_samples(make(number)) == number


@pytest.mark.parametrize(("first", "samples"), [(1, 1), (4, 4), (6, 6), (3, 2)])
def test_two_tensors_of_one_shape_are_inputs_and_targets_unless_they_have_three_channels(first, samples):
    assert count_samples((torch.zeros(first, 40, 16), torch.zeros(first, 40, 16))) == samples


def test_a_batch_of_graphs_tells_their_number():
    nodes = torch.zeros(50, 3)
    assert count_samples(SimpleNamespace(x=nodes, num_graphs=8)) == 8
    assert count_samples(SimpleNamespace(x=nodes, batch_size=8)) == 8
    assert count_samples((SimpleNamespace(x=nodes, num_graphs=8), torch.zeros(8))) == 8
    assert count_samples(SimpleNamespace(x=nodes, num_graphs=None)) == 50
    assert count_samples({"x": nodes, "batch_size": 8}) == 50
