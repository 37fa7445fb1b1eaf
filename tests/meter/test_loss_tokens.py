from dataclasses import dataclass

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from transformers import BatchEncoding

from mfu_callback.meter.batches import Batches, LossTokens
from mfu_callback.meter.loss_tokens import count_loss_tokens, find_labels

IDS = torch.zeros(3, 16, dtype=torch.long)
LABELS = IDS.clone()
LABELS[1, 10:] = LABELS[2, 4:] = -100
CLASSES = torch.zeros(3, dtype=torch.long)
IMAGES = torch.zeros(5, 3, 8, 8)
NAMED = {"input_ids": IDS, "labels": LABELS}


@dataclass
class Texts:
    input_ids: torch.Tensor
    labels: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (NAMED, 30),
        (BatchEncoding({"input_ids": IDS, "attention_mask": IDS, "labels": LABELS}), 30),
        ({"tokens": IDS.int(), "labels": LABELS.int()}, 30),
        (Texts(IDS, LABELS), 30),
        ((IDS, LABELS), None),
        ([IDS, IDS], None),
        ((NAMED, CLASSES), 30),
        ({"en": NAMED, "de": NAMED}, 60),  # of two loaders
        ({"en": NAMED, "images": IMAGES}, 30),
        ({3: NAMED}, 30),
        ({"en": NAMED, "de": {"input_ids": IDS}}, None),
        ({"input_ids": IDS, "labels": CLASSES}, None),
        ({"input_ids": IDS, "labels": LABELS.float()}, None),
        ({"input_ids": IDS, "labels": None}, None),
        ({"input_ids": IDS, "attention_mask": IDS}, None),
        ({"input_ids": torch.zeros(3, 16), "labels": LABELS}, None),  # of audio
        ({"pixel_values": IMAGES, "labels": LABELS}, None),
        ((IDS, CLASSES), None),
        ((IDS, IDS.bool()), None),  # a mask
        ((IDS, IDS, LABELS), None),  # the second may be a mask
        ((IDS, {"labels": LABELS}), None),
        ((CLASSES, CLASSES), None),
        (IDS, None),
        ((IDS,), None),
        (pack_sequence([IDS[0, :5], IDS[0, :3]]), None),
        (("text", "text"), None),
        ("ab", None),
        ((), None),
        (None, None),
    ],
)
def test_labels_other_than_minus_100_are_counted_where_they_belong_to_the_tokens(batch, expected):
    labels = find_labels(batch)
    assert (None if labels is None else count_loss_tokens(batch, labels).item()) == expected


def test_batches_of_one_form_are_each_counted_on_their_own():
    notes = []
    batches = Batches("thop", None, notes.append)
    for labels in (LABELS, IDS):
        batches.look_at({"input_ids": IDS, "labels": labels})
    batches.look_at({"input_ids": IDS})
    assert [note.number.item() if isinstance(note, LossTokens) else note for note in notes] == [
        None,
        30,
        None,
        48,
        None,
    ]
