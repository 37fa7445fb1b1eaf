"""What the size of a batch is counted in: samples or tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from mfu_callback.finder.data import loaders as of_loaders
from mfu_callback.finder.data import tokens as of_tokens
from mfu_callback.finder.data.samples import Samples
from mfu_callback.finder.data.tokens import NAMES, Longest, TokenSamples
from mfu_callback.lightning.namespaces import MisconfigurationException


class InSamples:
    """Sizes in samples: the ``batch_size`` of loaders.

    Args:
        attribute: The name of the attribute to set; None for the usual ones.
    """

    name = "batch size"

    def __init__(self, attribute: str | None) -> None:
        self._attribute = attribute

    def names(self, stage: str) -> tuple[str, ...]:
        """The attributes of the model, its hparams and the datamodule to look for."""
        return of_loaders.NAMES[stage] if self._attribute is None else (self._attribute,)

    def of(self, loader: Any) -> int | None:
        """The size that a loader has; None if it has none."""
        return of_loaders.batch_size_of(loader)

    def holder(self, loader: Any) -> Any:
        """The object that has the size."""
        return loader

    def put(self, loader: DataLoader[Any], size: int) -> None:
        """Set it on the loader and its batch sampler, since the Trainer recreates some loaders from their sizes."""
        if loader.batch_size is not None:
            vars(loader)["batch_size"] = size  # DataLoader refuses a plain assignment
        loader.batch_sampler.batch_size = size  # type: ignore[union-attr]

    def check(self, loaders: Sequence[Any]) -> None:
        """Check that batches can be made in the way these loaders make them.

        Raises:
            MisconfigurationException: If there is no loader, or one is not a DataLoader or has no batch size.
        """
        of_loaders.check(loaders)
        for loader in loaders:
            if self.of(loader) is None:
                why = "batch_size=None, since its data set makes the batches"
                if loader.batch_sampler is not None:
                    why = f"a {type(loader.batch_sampler).__name__} without a `batch_size` to set"
                raise MisconfigurationException(
                    f"BatchSizeFinder needs a DataLoader whose batch size can be set; this one has {why}. Give it a"
                    " batch_size, or max_tokens= to a finder for a loader that fills its batches by tokens, or leave"
                    " the finder out."
                )

    def check_evaluation(self, loaders: Sequence[Any]) -> None:
        """Check the loaders of the validation inside fit.

        Raises:
            MisconfigurationException: As `check`.
        """
        self.check(loaders)

    def draw(self, loader: DataLoader[Any]) -> Samples:
        """Draw samples."""
        return Samples(loader)


class InTokens:
    """Sizes in tokens: the limit by which samplers fill batches, such as ``max_tokens``.

    Args:
        most: The largest number of tokens to try.
        attribute: The name of the attribute to set, also on samplers; None for the usual ones.
        multiple_of: Only multiples of this number of the longest samples are tried.
    """

    name = "max_tokens"

    def __init__(self, most: int, attribute: str | None, multiple_of: int = 1) -> None:
        self.most = most
        self._attribute = attribute
        self._multiple_of = multiple_of

    def names(self, stage: str) -> tuple[str, ...]:
        """The attributes of the model, its hparams and the datamodule to look for."""
        return NAMES if self._attribute is None else (self._attribute,)

    def of(self, loader: Any) -> int | None:
        """The limit that a loader's sampler has; None if it has none."""
        found = of_tokens.limit_of(loader, self._attribute)
        return None if found is None else getattr(*found)

    def holder(self, loader: Any) -> Any:
        """The object that has the limit: the sampler, or an attribute of it; None if there is no limit."""
        found = of_tokens.limit_of(loader, self._attribute)
        return None if found is None else found[0]

    def put(self, loader: DataLoader[Any], size: int) -> None:
        """Set it on the loader's batch sampler, or on its sampler if there is no batch sampler.

        Raises:
            MisconfigurationException: If it cannot be set.
        """
        holder, name = of_tokens.limit_of(loader, self._attribute) or (None, "")
        try:
            setattr(holder, name, size)
        except AttributeError as error:
            raise MisconfigurationException(
                f"BatchSizeFinder cannot set {type(holder).__name__}.{name} ({error}). Make it a plain attribute,"
                f" {of_loaders.REMEDY}."
            ) from error

    def check(self, loaders: Sequence[Any]) -> None:
        """Check that the loaders fill their batches by tokens.

        Raises:
            MisconfigurationException: If there is no loader, or one is not a DataLoader or has no limit of tokens.
        """
        of_loaders.check(loaders)
        for loader in loaders:
            if of_tokens.limit_of(loader, self._attribute) is None:
                names = ", ".join(f"`{name}`" for name in self.names(""))
                raise MisconfigurationException(
                    "BatchSizeFinder(max_tokens=...) needs a DataLoader whose batch sampler fills batches by tokens;"
                    f" this one has a {type(of_tokens.sampler_of(loader)).__name__} without any of {names}. Name its"
                    " attribute as batch_arg_name, or leave out max_tokens to search the batch_size."
                )

    def check_evaluation(self, loaders: Sequence[Any]) -> None:
        """Check the loaders of the validation inside fit, which may have a batch size.

        Raises:
            MisconfigurationException: If there is no loader, or one is not a DataLoader.
        """
        of_loaders.check(loaders)

    def draw(self, loader: DataLoader[Any]) -> TokenSamples:
        """Draw samples."""
        return TokenSamples(loader)

    def check_room(self, longest: Longest) -> None:
        """Check that the longest sample is within the largest number of tokens to try.

        Raises:
            MisconfigurationException: If it is not.
        """
        if self.most < self._multiple_of * longest.counted:
            multiple = "" if self._multiple_of == 1 else f" times multiple_of={self._multiple_of}"
            raise MisconfigurationException(
                f"max_tokens={self.most:,} is below the longest sample's {longest.counted:,} tokens{multiple}"
                f" ({longest.how}), so no size is left to try. Raise max_tokens"
                + (", or leave out such long samples." if not multiple else ", or lower multiple_of.")
            )


Unit = InSamples | InTokens


def unit(*, max_tokens: int | None, attribute: str | None, multiple_of: int = 1) -> Unit:
    """Tokens if ``max_tokens`` is given, else samples."""
    return InSamples(attribute) if max_tokens is None else InTokens(max_tokens, attribute, multiple_of)
