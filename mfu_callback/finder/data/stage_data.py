"""The loaders and batches of one stage, for trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback.finder.data import loaders as of_loaders
from mfu_callback.finder.data.loaders import BatchSizeAttribute, LoadersThemselves, Setting, flattened
from mfu_callback.finder.data.samples import Samples, WorstCase
from mfu_callback.finder.data.tokens import Longest, TokenSamples, longest_of_worst_case
from mfu_callback.finder.data.units import InTokens, Unit
from mfu_callback.finder.global_batch import GlobalBatch
from mfu_callback.lightning import namespaces, private_names
from mfu_callback.lightning.namespaces import MisconfigurationException

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class StageData:
    """The loaders of one stage, the place where their batch size is set, and batches of any size like theirs.

    Sizes are samples. Where loaders fill their batches by tokens, they are samples of the longest length.

    Args:
        trainer: A Trainer that has not yet created its loaders.
        pl_module: The model.
        stage: "fit", "validate", "test" or "predict".
        unit: What the loaders count their batches in.
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
        unit: Unit,
        worst_case: Any,
        global_batch: GlobalBatch | None = None,
        must_set: bool,
    ) -> None:
        self.stage = stage
        self._trainer = trainer
        self._global_batch = global_batch
        self.unit = unit
        self.longest: Longest | None = None  # where batches are filled by tokens, once samples are drawn
        self._must_set = must_set
        self._worst_case = None if worst_case is None else WorstCase(worst_case)
        self._sources: dict[int, Samples | TokenSamples] = {}
        self.iterables: list[Any] = []  # the iterable data sets that samples were drawn from
        self.setting: Setting | None = None
        try:
            self.setting = setting_of(trainer, pl_module, stage, unit)
        except MisconfigurationException:
            if must_set or not private_names.data_source(trainer, stage).is_module():
                raise
        self._open()

    @property
    def asked(self) -> list[Any]:
        """The objects that samples are drawn from; drawing may change their attributes."""
        parts: dict[int, Any] = {}
        for loader in [*flattened(self._loaders), *self._evaluation]:
            for part in (loader, loader.dataset, loader.sampler, loader.batch_sampler, self.unit.holder(loader)):
                parts[id(part)] = part
        return list(parts.values())

    @property
    def most(self) -> float:
        """The most samples that a batch of this process can hold; infinite if unknown.

        No loader has a larger batch than the longest epoch of any has samples. One that drops incomplete batches has
        none at all where a batch is larger than its own epoch.
        """
        loaders = flattened(self._loaders)
        dropping = [self._most_of(loader) for loader in loaders if of_loaders.drops_last(loader)]
        return min([max(map(self._most_of, loaders)), *dropping])

    def show(self) -> None:
        """Put the training loaders on the Trainer, where the model's hooks may look for them."""
        if self.stage == "fit":
            counts = [math.inf if count is None else count for count in self.batches_in_epoch()]
            private_names.show_training_loaders(self._trainer, self._loaders, max(counts))

    def batches_in_epoch(self) -> list[int | None]:
        """The number of batches of each loader in an epoch; None where the loader does not know it."""
        return [of_loaders.batches_in(loader) for loader in flattened(self._loaders)]

    @property
    def per_sample(self) -> int:
        """What the setting counts for one sample: 1, or the tokens of the longest."""
        return 1 if self.longest is None else self.longest.counted

    def put(self, size: int) -> None:
        """Set the batch size, and how many of the batches make up an optimizer step if that is fixed."""
        if self.setting is not None:
            self.setting.put(size * self.per_sample)
        if self._global_batch is not None:
            self._global_batch.put(size)

    def draw(self, most_of: Callable[[float], float]) -> None:
        """Draw the samples that batches are made of.

        Args:
            most_of: Returns the largest of a number of all processes.

        Raises:
            MisconfigurationException: If there are no samples, or the longest has more tokens than a batch may have.
        """
        loaders = [] if self._worst_case is not None else flattened(self._loaders)
        for loader in [*loaders, *self._evaluation]:
            self._sources[id(loader)] = self.unit.draw(loader)
            if isinstance(loader.dataset, IterableDataset):
                self.iterables.append(loader.dataset)
        if isinstance(self.unit, InTokens):
            longest = self._longest()
            counted, tokens = int(most_of(longest.counted)), int(most_of(longest.tokens))
            self.longest = replace(longest, counted=counted, tokens=tokens)
            self.unit.check_room(self.longest)

    def batches(self, size: int) -> list[Any]:
        """The batches for the steps of the stage: one for training, one per loader for evaluation."""
        if self._worst_case is not None:
            return [self._worst_case.batch(size)]
        if self.stage != "fit":
            return [self._batch(loader, size) for loader in flattened(self._loaders)]
        is_combined = isinstance(self._loaders, namespaces.classes("utilities", "CombinedLoader"))
        tree = self._loaders.iterables if is_combined else self._loaders
        return [apply_to_collection(tree, DataLoader, lambda loader: self._batch(loader, size))]

    def validation_batches(self, size: int) -> list[Any]:
        """The batches for validation inside fit; loaders that do not follow the setting keep their size."""
        return [self._validation_batch(loader, size) for loader in self._evaluation]

    def _batch(self, loader: DataLoader[Any], size: int) -> Any:
        """The largest batch of a loader at a size: no larger than its epoch."""
        return self._sources[id(loader)].filled(int(min(size, self._most_of(loader))) * self.per_sample)

    def _validation_batch(self, loader: DataLoader[Any], size: int) -> Any:
        if self._follows[id(loader)]:
            return self._batch(loader, size)
        limit, source = self.unit.of(loader), self._sources[id(loader)]
        return source.batch(of_loaders.batch_size_of(loader) or 1) if limit is None else source.filled(limit)

    def _most_of(self, loader: DataLoader[Any]) -> float:
        """The most samples that a batch of a loader can hold in this process; infinite if unknown."""
        samples = of_loaders.samples_in(loader)
        if samples is None:
            return math.inf
        return math.ceil(samples / private_names.processes_that_share(self._trainer, loader))

    def _longest(self) -> Longest:
        if self._worst_case is not None:
            return longest_of_worst_case(self._worst_case)
        sources = [self._sources[id(loader)] for loader in flattened(self._loaders)]
        found = [source.longest for source in sources if isinstance(source, TokenSamples)]
        return max(found, key=lambda longest: longest.counted)

    def _open(self) -> None:
        probe = None
        if isinstance(self.setting, BatchSizeAttribute):
            probe = self.setting.another_size(self.unit.most if isinstance(self.unit, InTokens) else 1)
            self.setting.put(probe)
        self._loaders = private_names.data_source(self._trainer, self.stage).dataloader()
        self.unit.check(flattened(self._loaders))
        if probe is not None:
            self._check_that_loaders_follow(probe)
        validation = private_names.validation_source(self._trainer) if self.stage == "fit" else None
        self._evaluation = [] if validation is None else flattened(validation.dataloader())
        if self._evaluation:
            self.unit.check_evaluation(self._evaluation)
        self._follows = {id(loader): probe is not None and self.unit.of(loader) == probe for loader in self._evaluation}

    def _check_that_loaders_follow(self, probe: int) -> None:
        sizes = [self.unit.of(loader) for loader in flattened(self._loaders)]
        if set(sizes) == {probe}:
            return
        if self._must_set:
            raise MisconfigurationException(
                f"BatchSizeFinder sets `{self.setting}`, but the loaders' {self.unit.name} stays {sizes[0]}. Create"
                f" them in the *_dataloader() method with self.{self.setting}, {of_loaders.REMEDY}."
            )
        self.setting = None


def setting_of(trainer: Trainer, pl_module: LightningModule, stage: str, unit: Unit) -> Setting:
    """Where the size of the batches of a stage is set.

    Raises:
        MisconfigurationException: If there is no place to set it.
    """
    source = private_names.data_source(trainer, stage)
    if source.is_module():
        return BatchSizeAttribute(pl_module, of_loaders.attribute_name(pl_module, unit.names(stage)))
    given = flattened(source.instance)
    unit.check(given)
    return LoadersThemselves(given, unit.put)
