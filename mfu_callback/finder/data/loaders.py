"""The loaders that the trials draw samples from, and where their batch size is set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from mfu_callback.lightning import namespaces, private_names
from mfu_callback.lightning.namespaces import MisconfigurationException

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

# The names of attributes to look for, by stage.
NAMES = {
    "fit": ("batch_size", "train_batch_size"),
    "validate": ("batch_size", "val_batch_size", "eval_batch_size"),
    "test": ("batch_size", "test_batch_size", "eval_batch_size"),
    "predict": ("batch_size", "predict_batch_size", "eval_batch_size"),
}
REMEDY = "or call find_batch_size(trainer, model, ...) first and create the loaders with its batch_size"


class BatchSizeAttribute:
    """A ``batch_size`` of the model, its hparams or the datamodule, from which loaders are created.

    Args:
        pl_module: The model, attached to its Trainer.
        name: The attribute's name.
    """

    def __init__(self, pl_module: LightningModule, name: str) -> None:
        self._pl_module = pl_module
        self._name = name

    def __str__(self) -> str:
        return self._name

    def put(self, size: int) -> None:
        """Set it on every object that has the attribute."""
        namespaces.of(self._pl_module, "utilities.parsing", "lightning_setattr")(self._pl_module, self._name, size)

    def holders(self) -> list[Any]:
        """The objects and dicts that have the attribute."""
        return private_names.attribute_holders(self._pl_module, self._name)

    def another_size(self) -> int:
        """A size that no holder has at present."""
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
        """Set it on every loader and its batch sampler, since the Trainer recreates some loaders from their sizes."""
        for loader in self._loaders:
            if loader.batch_size is not None:
                vars(loader)["batch_size"] = size  # DataLoader refuses a plain assignment
            loader.batch_sampler.batch_size = size  # type: ignore[union-attr]


Setting = BatchSizeAttribute | LoadersThemselves


def flattened(loaders: Any) -> list[Any]:
    """The loaders of a collection, in order."""
    combined = namespaces.classes("utilities", "CombinedLoader")
    return list((loaders if isinstance(loaders, combined) else combined[0](loaders)).flattened)


def check(loaders: list[Any]) -> None:
    """Check that batches can be made in the way these loaders make them.

    Raises:
        MisconfigurationException: If there is no loader, or one is not a DataLoader or has no batch size.
    """
    if not loaders:
        raise MisconfigurationException("BatchSizeFinder found no DataLoader. Add one, or leave the finder out.")
    for loader in loaders:
        if not isinstance(loader, DataLoader):
            raise MisconfigurationException(
                f"BatchSizeFinder needs a DataLoader, or a collection of them; it got a {type(loader).__name__}. Set"
                " the batch size yourself and leave the finder out."
            )
        if batch_size_of(loader) is None:
            why = "batch_size=None, since its data set makes the batches"
            if loader.batch_sampler is not None:
                why = f"a {type(loader.batch_sampler).__name__} without a `batch_size` to set"
            raise MisconfigurationException(
                f"BatchSizeFinder needs a DataLoader whose batch size can be set; this one has {why}. Give it a"
                " batch_size, or leave the finder out."
            )


def batch_size_of(loader: Any) -> int | None:
    """The batch size of a loader, or else of its batch sampler; None if neither has one."""
    size = getattr(loader, "batch_size", None)
    return size if size is not None else getattr(getattr(loader, "batch_sampler", None), "batch_size", None)


def attribute_name(pl_module: LightningModule, stage: str, wanted: str | None) -> str:
    """The name of the attribute to set.

    Raises:
        MisconfigurationException: If there is no such attribute.
    """
    names = NAMES[stage] if wanted is None else (wanted,)
    for name in names:
        if private_names.attribute_holders(pl_module, name):
            return name
    raise MisconfigurationException(
        f"BatchSizeFinder sets `{names[0]}`, but neither the model, its hparams nor the datamodule has it. Add this"
        f" attribute to one of them and create the loaders with it, {REMEDY}."
    )


def dataset_length(loader: DataLoader[Any]) -> int | None:
    """The number of samples in a loader's data set; None if it has no length."""
    dataset: Any = loader.dataset
    return None if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") else len(dataset)


def drops_last(loader: DataLoader[Any]) -> bool:
    """Whether the loader drops an incomplete last batch."""
    return bool(loader.drop_last or getattr(loader.batch_sampler, "drop_last", False))
