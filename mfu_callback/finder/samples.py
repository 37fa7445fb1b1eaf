"""Batches of any size, made from the training data without iterating the user's loader."""

from __future__ import annotations

from itertools import islice
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback import _lightning


def training_loader(trainer: Trainer) -> DataLoader[Any]:
    """The loader that the Trainer would ask for.

    Args:
        trainer: A Trainer about to fit.

    Raises:
        MisconfigurationException: If the loader was given to ``fit``, is not one DataLoader, or makes no batches of
            its own.
    """
    loader = _source(trainer).train_dataloader()
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"BatchSizeFinder needs train_dataloader() to return one DataLoader; it returned {type(loader).__name__}."
            " Set batch_size yourself, and leave the finder out."
        )
    if loader.batch_size is None and loader.batch_sampler is None:
        raise MisconfigurationException(
            "BatchSizeFinder needs a DataLoader that makes batches; this one has batch_size=None, so that its data set"
            " makes them. Give the DataLoader a batch_size."
        )
    return loader


def dataset_length(loader: DataLoader[Any]) -> int | None:
    """Samples in a loader's data set; None for an iterable one."""
    return None if isinstance(loader.dataset, IterableDataset) else len(loader.dataset)  # type: ignore[arg-type]


def make_batch(loader: DataLoader[Any], size: int) -> Any:
    """Collate the first samples of a loader's data set, which is repeated where it is short.

    Args:
        loader: Its data set and collate function are used; the loader and its samplers are not touched.
        size: Samples in the batch.

    Raises:
        MisconfigurationException: If the data set is empty.
    """
    if isinstance(loader.dataset, IterableDataset):
        samples = list(islice(loader.dataset, size))
    else:
        samples = [loader.dataset[i] for i in range(min(size, len(loader.dataset)))]  # type: ignore[arg-type]
    if not samples:
        raise MisconfigurationException(
            "BatchSizeFinder found no sample in the training data set. Give it at least one, or leave the finder out."
        )
    return loader.collate_fn([samples[i % len(samples)] for i in range(size)])


def _source(trainer: Trainer) -> Any:
    source = _lightning.training_data_source(trainer)
    if not isinstance(source, LightningModule | LightningDataModule):
        raise MisconfigurationException(
            "BatchSizeFinder cannot change the batch size of a dataloader that was given to fit(). Make it in"
            " train_dataloader() of the model or of a datamodule, from `self.batch_size`."
        )
    return source
