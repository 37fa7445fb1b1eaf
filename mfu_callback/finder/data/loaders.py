"""The loaders that the trials draw samples from, and where the size of their batches is set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

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
REMEDY = "or call find_batch_size(trainer, model, ...) first and create the loaders with what it finds"


class BatchSizeAttribute:
    """A ``batch_size``, or a limit of tokens, of the model, its hparams or the datamodule, for creating loaders.

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

    def another_size(self, least: int = 1) -> int:
        """A size above ``least`` that no holder has at present."""
        values = [h[self._name] if isinstance(h, dict) else getattr(h, self._name) for h in self.holders()]
        return 1 + max([least, *(value for value in values if isinstance(value, int))])


class LoadersThemselves:
    """The size of the batches of loaders that were given to the Trainer.

    Args:
        loaders: DataLoaders.
        put_on: Sets a size on a loader.
    """

    def __init__(self, loaders: list[DataLoader[Any]], put_on: Callable[[DataLoader[Any], int], None]) -> None:
        self._loaders = loaders
        self._put_on = put_on

    def put(self, size: int) -> None:
        """Set it on every loader."""
        for loader in self._loaders:
            self._put_on(loader, size)


Setting = BatchSizeAttribute | LoadersThemselves


def flattened(loaders: Any) -> list[Any]:
    """The loaders of a collection, in order."""
    combined = namespaces.classes("utilities", "CombinedLoader")
    return list((loaders if isinstance(loaders, combined) else combined[0](loaders)).flattened)


def check(loaders: Sequence[Any]) -> None:
    """Check that there are loaders, and that they are DataLoaders.

    Raises:
        MisconfigurationException: If not.
    """
    if not loaders:
        raise MisconfigurationException("BatchSizeFinder found no DataLoader. Add one, or leave the finder out.")
    for loader in loaders:
        if not isinstance(loader, DataLoader):
            raise MisconfigurationException(
                f"BatchSizeFinder needs a DataLoader, or a collection of them; it got a {type(loader).__name__}. Set"
                " the batch size yourself and leave the finder out."
            )


def batch_size_of(loader: Any) -> int | None:
    """The batch size of a loader, or else of its batch sampler; None if neither has one."""
    size = getattr(loader, "batch_size", None)
    return size if size is not None else getattr(getattr(loader, "batch_sampler", None), "batch_size", None)


def attribute_name(pl_module: LightningModule, names: Sequence[str]) -> str:
    """The first of some names that the model, its hparams or the datamodule has.

    Raises:
        MisconfigurationException: If none of them has such an attribute.
    """
    for name in names:
        if private_names.attribute_holders(pl_module, name):
            return name
    raise MisconfigurationException(
        f"BatchSizeFinder sets `{names[0]}`, but neither the model, its hparams nor the datamodule has it. Add this"
        f" attribute to one of them and create the loaders with it, {REMEDY}."
    )


def batches_in(loader: DataLoader[Any]) -> int | None:
    """The number of batches of an epoch; None if the loader does not know it."""
    return _length_of(loader)


def samples_in(loader: DataLoader[Any]) -> int | None:
    """The number of samples that a loader draws in an epoch; None if it is unknown.

    It is the length of the sampler. Where that has none, or hands lists of indices to a data set that makes the
    batches, it is the length of the data set.
    """
    sampler = None if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", loader.sampler)
    length = _length_of(sampler)
    return _length_of(loader.dataset) if length is None else length


def drops_last(loader: DataLoader[Any]) -> bool:
    """Whether the loader drops an incomplete last batch."""
    return bool(loader.drop_last or getattr(loader.batch_sampler, "drop_last", False))


def _length_of(one: Any) -> int | None:
    try:
        return len(one)
    except (TypeError, NotImplementedError):
        return None
