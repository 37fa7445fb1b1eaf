"""Builds the model that `python -m mfu_callback.flops` counts: from an import path, or from a Hugging Face config."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

_FORMS = "package.module:name, path/to/file.py:name, or the path of a Hugging Face config.json"
_FILE_MODULE = "__mfu_model__"  # the name of a module that is loaded from a file, like multiprocessing's __mp_main__
_LIGHTNING = ("lightning", "pytorch_lightning")
_ARGUMENTS = "Give its arguments with --arg NAME=VALUE, or name a function in a file that makes the model."
NEEDS_VALUES = "It reads values, which the meta device does not have: use --device cpu."
_USUAL_LENGTH = 1024  # tokens
_REASON_CHARACTERS, _NAMES_SHOWN = 300, 10


class CountError(Exception):
    """What the user has given cannot be counted. The text names the option and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputShape:
    """One input of the model.

    Attributes:
        name: The keyword that it is given by; None for a positional input.
        shape: Its shape, the batch size first.
        dtype: Its dtype; None for that of the model's weights.
    """

    name: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None


def load_model(
    text: str, arguments: Mapping[str, Any], inputs: Sequence[InputShape], device: str
) -> tuple[nn.Module, list[InputShape]]:
    """Build a model on a device.

    Args:
        text: An import path, "package.module:name" or "path/to/file.py:name", of a subclass of `nn.Module`, of a
            function that returns a module, or of a module; or the path of a Hugging Face config, or of its directory.
        arguments: Keyword arguments of the class or function.
        inputs: The inputs that the user has given.
        device: A torch device.

    Returns:
        The model, and the inputs to call it with: those given, or the usual ones of a Hugging Face model.

    Raises:
        CountError: The model cannot be found or built, or has no forward, or its inputs are not known.
    """
    path = Path(text)
    if (path / "config.json").is_file():
        path /= "config.json"
    if path.suffix == ".json":
        if arguments:
            raise CountError("--arg is for a class or a function: write the values into the config file instead.")
        return _from_config(path, inputs, device)
    module = _build(_find(text), text, arguments, device)
    _check_forward(module)
    if not inputs and (needed := _needed_inputs(module)):
        raise CountError(f"forward of {type(module).__name__} needs {needed}: give each as --batch SHAPE[:DTYPE].")
    return module, list(inputs)


def reason_of(error: BaseException) -> str:
    """An error of the user's code in one line, with the place in that code, if it is in a file of the user's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    not_theirs = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]), "<")
    frames = traceback.extract_tb(error.__traceback__)
    files = (one for one in frames if "site-packages" not in one.filename)
    theirs = [one for one in files if not one.filename.startswith(not_theirs)]
    place = f", {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
    return f"{type(error).__name__}: {lines[0][:_REASON_CHARACTERS]}{place}"


def needs_values(error: Exception) -> bool:
    """Whether code that ran on the meta device failed because tensors have no values there."""
    return "meta" in str(error) or isinstance(error, NotImplementedError)


def _find(text: str) -> Any:
    """The object at an import path."""
    place, _, name = text.rpartition(":")
    if not place or not name:
        raise CountError(f"MODEL is {text!r}: give {_FORMS}.")
    try:
        found: Any = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # a script may end the process
        raise CountError(
            f"MODEL: {place!r} cannot be imported ({reason_of(error)}). Run the command where it can be, or give"
            " path/to/file.py:name."
        ) from error
    names = _names_in(found)
    for part in name.split("."):
        if not hasattr(found, part):
            raise CountError(f"MODEL: {place} has no {name!r}. It has: {names}.")
        found = getattr(found, part)
    return found


def _module_of_file(path: Path) -> ModuleType:
    """Run a file as ``python FILE`` would: with its directory on the import path."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(_FILE_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_FILE_MODULE] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _names_in(module: ModuleType) -> str:
    """Names of the module that may be models."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__))
    ]
    return ", ".join(names[:_NAMES_SHOWN]) or "no class, function or module of its own"


def _build(found: Any, text: str, arguments: Mapping[str, Any], device: str) -> nn.Module:
    if isinstance(found, nn.Module) and arguments:
        raise CountError(f"--arg: {text} is a module already; name its class or a function to give arguments.")
    if not callable(found):
        raise CountError(f"MODEL: {text} is {type(found).__name__}, not a module, its class, or a function.")
    made = found if isinstance(found, nn.Module) else _made_on(device, lambda: found(**arguments), text, _ARGUMENTS)
    if not isinstance(made, nn.Module):
        raise CountError(f"MODEL: {text} returns {type(made).__name__}, not a torch.nn.Module.")
    return _moved(made, device)


def _moved(module: nn.Module, device: str) -> nn.Module:
    try:
        return module.to(device)
    except (NotImplementedError, RuntimeError) as error:  # it is on the meta device; there is not enough memory
        raise CountError(f"--device {device}: the model cannot be moved there ({reason_of(error)}).") from error


def _made_on(device: str, make: Callable[[], Any], text: str, remedy: str) -> Any:
    try:
        with torch.device(device):
            return make()
    except Exception as error:
        remedy = NEEDS_VALUES if device == "meta" and needs_values(error) else remedy
        raise CountError(f"{text} cannot be built on the {device} device ({reason_of(error)}). {remedy}") from error


def _check_forward(module: nn.Module) -> None:
    """A LightningModule has a forward, even if its author has written none."""
    if "forward" in vars(module):
        return
    owner = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    name = type(module).__name__
    if owner.__module__.partition(".")[0] in _LIGHTNING:
        raise CountError(
            f"{name} is a LightningModule that defines no forward, which is what this command calls. Define it, or give"
            " a function that returns the network inside. (MFUCallback counts the training_step itself.)"
        )
    if owner is nn.Module:
        raise CountError(f"{name} defines no forward, which is what this command calls.")


def _needed_inputs(module: nn.Module) -> str:
    """The inputs without a default value, as in "x, mask"."""
    positional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return ", ".join(one.name for one in parameters if one.default is one.empty and one.kind not in positional)


def _from_config(path: Path, inputs: Sequence[InputShape], device: str) -> tuple[nn.Module, list[InputShape]]:
    """A model of transformers without weights of a checkpoint, in train mode, in the dtype that the config names."""
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise CountError(f"{path}: a Hugging Face config needs transformers: pip install transformers") from error
    if not path.is_file():
        raise CountError(f"MODEL: there is no file {path}.")
    config = _read_config(transformers, path)
    make = _maker(transformers, config, path)
    module: nn.Module = _made_on(device, lambda: make(config), str(path), "Check the config's values.")
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return module.to(dtype), _inputs_by_name(module, config, inputs)


def _read_config(transformers: Any, path: Path) -> Any:
    try:
        json.loads(path.read_text())
        return transformers.AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CountError(
            f"{path} is no config that transformers {transformers.__version__} can read ({reason_of(error)})."
        ) from error


def _maker(transformers: Any, config: Any, path: Path) -> Callable[[Any], nn.Module]:
    """The class that the config names; without a name a causal language model, or else the model without a head."""
    name = next(iter(config.architectures or ()), None)
    if name is not None:
        if not hasattr(transformers, name):
            raise CountError(
                f"{path}: transformers {transformers.__version__} has no class {name!r}, which its architectures"
                " name. Give the class by its import path, or remove that entry."
            )
        return getattr(transformers, name)  # type: ignore[no-any-return]
    causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    return auto.from_config  # type: ignore[no-any-return]


def _inputs_by_name(module: nn.Module, config: Any, inputs: Sequence[InputShape]) -> list[InputShape]:
    main = str(getattr(module, "main_input_name", "input_ids"))
    if sum(one.name is None for one in inputs) > 1:
        raise CountError(f"--batch: the first input is {main!r}; give the others as NAME=SHAPE.")
    named = [replace(one, name=one.name or main) for one in inputs]
    named = named or [InputShape(name=main, shape=_usual_shape(main, config))]
    parameters = inspect.signature(module.forward).parameters
    if config.is_encoder_decoder and "decoder_input_ids" in parameters:
        named += _decoder_inputs(named, config)
    return [replace(one, dtype=one.dtype or _usual_dtype(str(one.name))) for one in named]


def _usual_dtype(name: str) -> torch.dtype | None:
    return torch.int64 if name.endswith(("_ids", "_mask", "labels")) else None


def _usual_shape(name: str, config: Any) -> tuple[int, ...]:
    """The shape of one sample of a model's main input."""
    if name == "input_ids":  # (B, T)
        longest = getattr(config.get_text_config(), "max_position_embeddings", None)
        return (1, min(longest or _USUAL_LENGTH, _USUAL_LENGTH))
    if name == "pixel_values":  # (B, C, H, W)
        of_images = getattr(config, "vision_config", config)
        side = getattr(of_images, "image_size", None)
        if side:
            height_and_width = (side, side) if isinstance(side, int) else tuple(side)
            return (1, getattr(of_images, "num_channels", 3), *height_and_width)
    if name == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        return (1, config.num_mel_bins, 2 * config.max_source_positions)  # of Whisper, (B, mel bins, frames)
    example = {"pixel_values": "1x3x224x224", "input_values": "1x16000"}.get(name, "SHAPE")
    raise CountError(f"The config does not say how large its input {name!r} is: give --batch {name}={example}.")


def _decoder_inputs(named: Sequence[InputShape], config: Any) -> list[InputShape]:
    """As many token ids for the decoder as for the encoder, or as many as a decoder of speech may have."""
    if any(str(one.name).startswith("decoder_") for one in named):
        return []
    first = named[0]
    longest = getattr(config, "max_target_positions", None)
    shape = first.shape if first.name == "input_ids" else longest and (first.shape[0], longest)
    return [InputShape(name="decoder_input_ids", shape=shape)] if shape else []
