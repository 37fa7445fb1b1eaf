"""The loaders and batches of one stage, for trials."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback.finder.data import loaders as of_loaders
from mfu_callback.finder.data.loaders import BatchSizeAttribute, LoadersThemselves, Setting, flattened
from mfu_callback.finder.data.samples import Samples, WorstCase
from mfu_callback.finder.global_batch import GlobalBatch
from mfu_callback.lightning import namespaces, private_names
from mfu_callback.lightning.namespaces import MisconfigurationException

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class StageData:
    """The loaders of one stage, the place where their batch size is set, and batches of any size like theirs.

    Args:
        trainer: A Trainer that has not yet created its loaders.
        pl_module: The model.
        stage: "fit", "validate", "test" or "predict".
        attribute: The name of the attribute to set; None to find it.
        worst_case: The user's own worst batch, or a function from a size to a batch.
        global_batch: Of what the batches are micro-batches; None if an optimizer step may have any number of samples.
        must_set: Whether it is an error if the batch size cannot be set, or the loaders do not follow the setting.

    Raises:
        MisconfigurationException: If there is no batch size to set, or no loader to draw samples from.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        stage: str,
        *,
        attribute: str | None,
        worst_case: Any,
        global_batch: GlobalBatch | None = None,
        must_set: bool,
    ) -> None:
        self.stage = stage
        self.global_batch = global_batch
        self._must_set = must_set
        self._worst_case = None if worst_case is None else WorstCase(worst_case)
        self._sources: dict[int, Samples] = {}
        self.iterables: list[Any] = []  # the iterable data sets that samples were drawn from
        self.setting: Setting | None = None
        try:
            self.setting = setting_of(trainer, pl_module, stage, attribute)
        except MisconfigurationException:
            if must_set or not private_names.data_source(trainer, stage).is_module():
                raise
        self._open(trainer)

    @property
    def asked(self) -> list[Any]:
        """The objects that samples are drawn from; drawing may change their attributes."""
        all_loaders = [*flattened(self._loaders), *self._evaluation]
        return [
            part for loader in all_loaders for part in (loader, loader.dataset, loader.sampler, loader.batch_sampler)
        ]

    @property
    def length(self) -> int | None:
        """Samples in the shortest data set that the batches are made of; None if any has no length."""
        lengths = [of_loaders.dataset_length(loader) for loader in flattened(self._loaders)]
        return None if None in lengths else min(length for length in lengths if length is not None)

    @property
    def drops_last(self) -> bool:
        """Whether a loader drops incomplete batches, so that it never yields a batch larger than its data set."""
        return any(of_loaders.drops_last(loader) for loader in flattened(self._loaders))

    def show(self, trainer: Trainer) -> None:
        """Put the training loaders on the Trainer, where the model's hooks may look for them."""
        if self.stage == "fit":
            lengths = [len(loader) if self.length is not None else math.inf for loader in flattened(self._loaders)]
            private_names.show_training_loaders(trainer, self._loaders, max(lengths))

    def put(self, size: int) -> None:
        """Set the batch size, and how many of the batches make up an optimizer step if that is fixed."""
        if self.setting is not None:
            self.setting.put(size)
        if self.global_batch is not None:
            self.global_batch.put(size)

    def draw(self) -> None:
        """Draw the samples that batches are made of."""
        loaders = [] if self._worst_case is not None else flattened(self._loaders)
        for loader in [*loaders, *self._evaluation]:
            self._sources[id(loader)] = Samples(loader)
            if isinstance(loader.dataset, IterableDataset):
                self.iterables.append(loader.dataset)

    def batches(self, size: int) -> list[Any]:
        """The batches for the steps of the stage: one for training, one per loader for evaluation."""
        if self._worst_case is not None:
            return [self._worst_case.batch(size)]
        if self.stage != "fit":
            return [self._sources[id(loader)].batch(size) for loader in flattened(self._loaders)]
        is_combined = isinstance(self._loaders, namespaces.classes("utilities", "CombinedLoader"))
        tree = self._loaders.iterables if is_combined else self._loaders
        return [apply_to_collection(tree, DataLoader, lambda loader: self._sources[id(loader)].batch(size))]

    def validation_batches(self, size: int) -> list[Any]:
        """The batches for validation inside fit; loaders that do not follow the setting keep their size."""
        sizes = [size if self._follows[id(loader)] else of_loaders.batch_size_of(loader) for loader in self._evaluation]
        return [self._sources[id(one)].batch(n or 1) for one, n in zip(self._evaluation, sizes, strict=True)]

    def _open(self, trainer: Trainer) -> None:
        probe = None
        if isinstance(self.setting, BatchSizeAttribute):
            probe = self.setting.another_size()
            self.setting.put(probe)
        self._loaders = private_names.data_source(trainer, self.stage).dataloader()
        of_loaders.check(flattened(self._loaders))
        if probe is not None:
            self._check_that_loaders_follow(probe)
        validation = private_names.validation_source(trainer) if self.stage == "fit" else None
        self._evaluation = [] if validation is None else flattened(validation.dataloader())
        if self._evaluation:
            of_loaders.check(self._evaluation)
        self._follows = {id(loader): of_loaders.batch_size_of(loader) == probe for loader in self._evaluation}

    def _check_that_loaders_follow(self, probe: int) -> None:
        sizes = [of_loaders.batch_size_of(loader) for loader in flattened(self._loaders)]
        if set(sizes) == {probe}:
            return
        if self._must_set:
            raise MisconfigurationException(
                f"BatchSizeFinder sets `{self.setting}`, but the loaders' batch size stays {sizes[0]}. Create them"
                f" in the *_dataloader() method with batch_size=self.{self.setting}, {of_loaders.REMEDY}."
            )
        self.setting = None


def setting_of(trainer: Trainer, pl_module: LightningModule, stage: str, attribute: str | None) -> Setting:
    """Where the batch size of a stage is set.

    Raises:
        MisconfigurationException: If there is no place to set it.
    """
    source = private_names.data_source(trainer, stage)
    if source.is_module():
        return BatchSizeAttribute(pl_module, of_loaders.attribute_name(pl_module, stage, attribute))
    given = flattened(source.instance)
    of_loaders.check(given)
    return LoadersThemselves(given)
