"""The loaders that the trials take samples from, and where their batch size is set."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.parsing import lightning_hasattr, lightning_setattr
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback.lightning import private_names

# The attributes that are looked for, by what the Trainer was asked to do.
NAMES = {
    "fit": ("batch_size", "train_batch_size"),
    "validate": ("batch_size", "val_batch_size", "eval_batch_size"),
    "test": ("batch_size", "test_batch_size", "eval_batch_size"),
    "predict": ("batch_size", "predict_batch_size", "eval_batch_size"),
}
REMEDY = "or call find_batch_size(trainer, model, ...) before and make the loaders with its batch_size"


class BatchSizeAttribute:
    """A ``batch_size`` of the model, its hparams or the datamodule, from which loaders are made.

    Args:
        pl_module: The model, with its Trainer.
        name: The attribute's name.
    """

    def __init__(self, pl_module: LightningModule, name: str) -> None:
        self._pl_module = pl_module
        self._name = name

    def __str__(self) -> str:
        return self._name

    def put(self, size: int) -> None:
        """Set it wherever there is one of that name."""
        lightning_setattr(self._pl_module, self._name, size)

    def holders(self) -> list[Any]:
        """The objects and dicts that have it."""
        return private_names.attribute_holders(self._pl_module, self._name)

    def another_size(self) -> int:
        """A size that none of the holders has."""
        values = [h[self._name] if isinstance(h, dict) else getattr(h, self._name) for h in self.holders()]
        return 1 + max((value for value in values if isinstance(value, int)), default=1)


class LoadersThemselves:
    """The batch size of loaders that were given to the Trainer.

    Args:
        loaders: DataLoaders.
    """

    def __init__(self, loaders: list[DataLoader[Any]]) -> None:
        self._loaders = loaders

    def __str__(self) -> str:
        return "the batch_size of the given loader"

    def put(self, size: int) -> None:
        """Set it on every loader and its batch sampler: the Trainer makes some loaders anew from what they say."""
        for loader in self._loaders:
            if loader.batch_size is not None:
                vars(loader)["batch_size"] = size  # DataLoader refuses a plain assignment
            loader.batch_sampler.batch_size = size  # type: ignore[union-attr]


Setting = BatchSizeAttribute | LoadersThemselves


def flattened(loaders: Any) -> list[Any]:
    """The loaders of a collection in order."""
    return list((loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)).flattened)


def check(loaders: list[Any]) -> None:
    """Make sure that batches can be made as these loaders make them.

    Raises:
        MisconfigurationException: If one is no DataLoader, or makes no batches of its own.
    """
    if not loaders:
        raise MisconfigurationException("BatchSizeFinder found no dataloader. Give the Trainer one, or leave it out.")
    for loader in loaders:
        if not isinstance(loader, DataLoader):
            raise MisconfigurationException(
                f"BatchSizeFinder needs a DataLoader, or a collection of them; it got a {type(loader).__name__}. Set"
                " the batch size yourself, and leave the finder out."
            )
        if batch_size_of(loader) is None:
            why = "batch_size=None: its data set makes the batches"
            if loader.batch_sampler is not None:
                why = f"a {type(loader.batch_sampler).__name__} without a `batch_size` to set"
            raise MisconfigurationException(
                f"BatchSizeFinder needs a DataLoader whose batch size can be set; this one has {why}. Give it a"
                " batch_size, or leave the finder out."
            )


def batch_size_of(loader: Any) -> int | None:
    """What a loader, or the sampler of its batches, says."""
    size = getattr(loader, "batch_size", None)
    return size if size is not None else getattr(getattr(loader, "batch_sampler", None), "batch_size", None)


def attribute_name(pl_module: LightningModule, stage: str, wanted: str | None) -> str:
    """The name of the attribute to set.

    Raises:
        MisconfigurationException: If there is none.
    """
    names = NAMES[stage] if wanted is None else (wanted,)
    for name in names:
        if lightning_hasattr(pl_module, name):
            return name
    raise MisconfigurationException(
        f"BatchSizeFinder sets `{names[0]}`, and neither the model, its hparams nor the datamodule has one. Give one of"
        f" them such an attribute and use it where the loaders are made, {REMEDY}."
    )


def dataset_length(loader: DataLoader[Any]) -> int | None:
    """Samples in a loader's data set; None for one without a length."""
    dataset: Any = loader.dataset
    return None if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") else len(dataset)


def drops_last(loader: DataLoader[Any]) -> bool:
    """Whether a batch that cannot be filled is left out."""
    return bool(loader.drop_last or getattr(loader.batch_sampler, "drop_last", False))
