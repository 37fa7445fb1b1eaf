import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from transformers import BatchEncoding

from mfu_callback import count_tokens
from mfu_callback.meter.samples import count_samples
from mfu_callback.meter.token_finder import TokenFinder

IDS = torch.zeros(3, 16, dtype=torch.long)
IMAGES = torch.zeros(5, 3, 8, 8)
LABELS = torch.zeros(5, dtype=torch.long)


@pytest.mark.parametrize(
    ("batch", "tokens", "samples"),
    [
        (IDS, 48, 3),
        (IDS.int(), 48, 3),
        ((IDS, IDS), 48, 3),
        ([IDS, IDS], 48, 3),
        ({"input_ids": IDS, "labels": IDS}, 48, 3),
        ({"labels": LABELS, "input_ids": IDS}, 48, 5),
        (BatchEncoding({"input_ids": IDS, "attention_mask": IDS}), 48, 3),
        (({"input_ids": IDS}, LABELS), 48, 3),
        ({"tokens": IDS.flatten()}, 48, 48),
        ({"en": {"input_ids": IDS}, "de": (IDS, IDS)}, 96, 3),  # of two loaders
        ({"en": {"input_ids": IDS}, "images": IMAGES}, 48, 3),
        (pack_sequence([IDS[0, :5], IDS[0, :3]]), 8, 2),
        ((pack_sequence([IDS[0, :5], IDS[0, :3]]), LABELS), 8, 2),
        (torch.nested.nested_tensor([IDS[0], IDS[1, :4]], layout=torch.jagged), 20, 2),
        (IMAGES, None, 5),
        ((IMAGES, LABELS), None, 5),
        ({"pixel_values": IMAGES, "labels": LABELS}, None, 5),
        (LABELS, None, 5),
        (torch.zeros(3, 16, dtype=torch.bool), None, 3),
        (torch.tensor(7), None, None),
        ((), None, None),
        ("text", None, None),
        (None, None, None),
        ({"input_ids": None}, None, None),
    ],
)
def test_tokens_and_samples_of_common_batches(batch, tokens, samples):
    assert count_tokens(batch) == tokens
    assert count_samples(batch) == samples


MASK = torch.ones(3, 16, dtype=torch.long)
MASK[1, 10:] = MASK[2, 4:] = 0


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"input_ids": IDS, "attention_mask": MASK}, 30),
        ({"input_ids": IDS, "attention_mask": MASK.bool()}, 30),
        (BatchEncoding({"input_ids": IDS, "attention_mask": MASK}), 30),
        (({"input_ids": IDS, "attention_mask": MASK}, LABELS), 30),
        ({"a": {"input_ids": IDS, "attention_mask": MASK}, "b": {"input_ids": IDS, "attention_mask": MASK}}, 60),
        ({"a": {"input_ids": IDS, "attention_mask": MASK}, "b": {"input_ids": IDS}}, None),
        ({"input_ids": IDS}, None),
        ({"input_ids": IDS, "attention_mask": None}, None),
        ({"input_ids": IDS, "attention_mask": MASK[:, None, None, :]}, None),
        (IDS, None),
        (IMAGES, None),
    ],
)
def test_tokens_that_are_not_padding(batch, expected):
    count = TokenFinder().count_real(batch)
    assert (count if count is None else count.item()) == expected
