import pytest
import torch
from transformers import BatchEncoding

from mfu_callback import count_tokens
from mfu_callback.tokens import count_samples

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
