from pathlib import Path

import pytest
import torch

from gpt import RandomTokens, TextFile


def text_file(folder: Path, data: bytes) -> Path:
    path = folder / "text.txt"
    path.write_bytes(data)
    return path


def all_targets(batches: object) -> torch.Tensor:
    return torch.cat([targets for _, targets in batches])  # type: ignore[attr-defined]


def test_a_random_target_is_the_next_input() -> None:
    inputs, targets = next(iter(RandomTokens(batch_size=3, context_length=8).train_dataloader()))

    assert inputs.shape == targets.shape == (3, 8)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_random_tokens_use_the_whole_vocabulary_and_nothing_else() -> None:
    tokens = all_targets(RandomTokens(batch_size=4, context_length=100, vocab_size=7, length=8).train_dataloader())

    assert tokens.unique().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_random_tokens_are_the_same_every_time_and_no_two_sequences_alike() -> None:
    first = all_targets(RandomTokens(batch_size=2, context_length=16, length=10).train_dataloader())
    second = all_targets(RandomTokens(batch_size=5, context_length=16, length=10).train_dataloader())

    assert torch.equal(first, second)
    assert first.unique(dim=0).shape == (10, 16)


def test_another_seed_gives_other_random_tokens() -> None:
    zero, one = (all_targets(RandomTokens(length=4, seed=seed).train_dataloader()) for seed in (0, 1))

    assert not (zero[:, None] == one[None]).all(-1).any()


def test_random_tokens_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()

    list(RandomTokens(context_length=8, length=4).train_dataloader())

    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_batch_size_is_used_by_the_next_loader(tmp_path: Path) -> None:
    random = RandomTokens(batch_size=2, context_length=8, length=16)
    text = TextFile(text_file(tmp_path, bytes(range(256))), batch_size=2, context_length=8)

    for data in (random, text):
        data.batch_size = 5
        assert next(iter(data.train_dataloader()))[0].shape == (5, 8)


def test_every_byte_of_a_text_is_a_target_once_but_the_first(tmp_path: Path) -> None:
    data = TextFile(text_file(tmp_path, bytes(range(201))), batch_size=3, context_length=10, validation_fraction=0.0)

    seen = all_targets(data.train_dataloader()).flatten()

    assert sorted(seen.tolist()) == list(range(1, 201))


def test_a_texts_target_is_the_next_byte(tmp_path: Path) -> None:
    data = TextFile(text_file(tmp_path, "Grüße, ".encode() * 50), batch_size=4, context_length=16)

    for loader in (data.train_dataloader(), data.val_dataloader()):
        for inputs, targets in loader:
            assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_a_text_is_shuffled_for_training_and_in_order_for_validation(tmp_path: Path) -> None:
    data = TextFile(text_file(tmp_path, bytes(range(250))), batch_size=1, context_length=2, validation_fraction=0.2)
    torch.manual_seed(0)

    training = [inputs[0, 0].item() for inputs, _ in data.train_dataloader()]
    validation = [inputs[0, 0].item() for inputs, _ in data.val_dataloader()]

    assert training != sorted(training)
    assert sorted(training) == list(range(0, 198, 2))
    assert validation == list(range(200, 248, 2))


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        TextFile(tmp_path / "missing.txt")


@pytest.mark.parametrize("size", [0, 16])
def test_a_text_shorter_than_a_sequence_is_refused_with_both_counts(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=rf"has {size} bytes.* 17\b"):
        TextFile(text_file(tmp_path, b"x" * size), context_length=16, validation_fraction=0.0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_validation_fraction_that_leaves_nothing_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"validation_fraction is {fraction}"):
        TextFile(text_file(tmp_path, b"x" * 1000), validation_fraction=fraction)


@pytest.mark.parametrize("argument", ["batch_size", "context_length", "vocab_size", "length"])
def test_a_size_below_one_is_refused_by_name(argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} is 0: give 1 or more"):
        RandomTokens(**{argument: 0})


def test_a_batch_size_below_one_is_refused_for_a_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^batch_size is 0: give 1 or more"):
        TextFile(text_file(tmp_path, b"x" * 1000), batch_size=0)


def test_a_batch_size_set_below_one_is_refused_by_the_loader() -> None:
    data = RandomTokens()
    data.batch_size = 0

    with pytest.raises(ValueError, match="batch_size"):
        data.train_dataloader()
