"""The MFUCallback that an environment variable asks for, and the arguments that stand in the variable."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mfu_callback.lightning.callback import MFUCallback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


class MFUCallbackFromEnvironment(MFUCallback):
    """An MFUCallback that leaves a Trainer in which the user has put one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave, or begin as MFUCallback does."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(one, MFUCallback) and one is not self for one in callbacks):
            # A new list: the Trainer is going through the one that it has.
            trainer.callbacks = [one for one in callbacks if one is not self]  # type: ignore[attr-defined]
        else:
            super().setup(trainer, pl_module, stage)


def callback_of(options: str, warn: Callable[[str], None]) -> MFUCallback:
    """The callback with the given arguments, or with its defaults and a warning if one of them is wrong.

    Args:
        options: Arguments of `MFUCallback`, such as "peak=312e12,sync=window".
        warn: Warns with a message.
    """
    try:
        return MFUCallbackFromEnvironment(**arguments_in(options))
    except ValueError as error:
        warn(f"{options!r}: {error} MFUCallback runs with its defaults instead.")
        return MFUCallbackFromEnvironment()


def arguments_in(options: str) -> dict[str, Any]:
    """The arguments that stand in a text, with their values.

    Raises:
        ValueError: If a part of the text is no "name=value", an argument is unknown, or its value of a wrong type.
    """
    hints = get_type_hints(MFUCallback.__init__)
    del hints["return"]
    arguments = {}
    for part in filter(str.strip, options.split(",")):
        name, _, text = (piece.strip() for piece in part.partition("="))
        if name not in hints:
            raise ValueError(f"{name!r} is no argument of MFUCallback. Use 1, or some of {', '.join(hints)}.")
        arguments[name] = _value(text)
        if not _accepts(hints[name], arguments[name]):
            raise ValueError(f"{name}={text!r} must be of the type {_written(hints[name])}.")
    return arguments


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return _WORDS.get(text.lower(), text)


def _accepts(hint: Any, value: Any) -> bool:
    """Whether a value is of a type; which words are allowed is for the callback to say."""
    if get_origin(hint) in (Literal, abc.Callable):
        return get_origin(hint) is Literal and isinstance(value, str)
    if hint is float:
        return type(value) in (int, float)
    if isinstance(hint, type):
        return type(value) is hint
    return any(_accepts(part, value) for part in get_args(hint))


def _written(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
