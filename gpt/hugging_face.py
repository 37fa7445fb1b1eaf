"""The weights of Hugging Face's GPT-2 under our names, and ours under theirs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gpt.config import GPTConfig

# Ours, and theirs within `transformer.`; the head is outside of it. `{}` is the number of a block.
_NAMES = (
    ("token_embedding", "wte"),
    ("position_embedding", "wpe"),
    ("blocks.{}.attention_norm", "h.{}.ln_1"),
    ("blocks.{}.attention.qkv", "h.{}.attn.c_attn"),
    ("blocks.{}.attention.project", "h.{}.attn.c_proj"),
    ("blocks.{}.mlp_norm", "h.{}.ln_2"),
    ("blocks.{}.mlp.expand", "h.{}.mlp.c_fc"),
    ("blocks.{}.mlp.project", "h.{}.mlp.c_proj"),
    ("norm", "ln_f"),
)
_TO_THEIRS = {**dict(_NAMES), "head": "lm_head"}
_TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")  # Conv1D stores (in, out), nn.Linear (out, in)
_BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks, which older versions save
_HEAD_CHANNELS = 64  # of every GPT-2
_PREFIX = "transformer."


def to_hf(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights as GPT2LMHeadModel names and stores them.

    Args:
        state_dict: Of a ``gpt.GPT``.
    """
    renamed = {_their_name(name): weight for name, weight in state_dict.items()}
    return {
        name if name.startswith("lm_head") else _PREFIX + name: _turned(name, weight)
        for name, weight in renamed.items()
    }


def from_hf(state_dict: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights as ``gpt.GPT`` names and stores them.

    Args:
        state_dict: Of GPT2LMHeadModel, or of GPT2Model, whose names have no ``transformer.`` and no head.
        shapes: Our weights, by name; only their shapes are looked at.

    Raises:
        ValueError: Weights are missing, are not GPT-2's, or have other shapes.
    """
    theirs = _plain_names(state_dict)
    theirs.setdefault("lm_head.weight", theirs["wte.weight"])  # GPT2Model has no head
    expected = {_their_name(name): name for name in shapes}
    problems = [f"{name} is missing" for name in expected if name not in theirs]
    problems += [f"{name} is not a weight of this GPT" for name in theirs if name not in expected]
    wanted = {name: tuple(_turned(name, shapes[ours]).shape) for name, ours in expected.items() if name in theirs}
    problems += [
        f"{name} has the shape {tuple(theirs[name].shape)} in place of {shape}"
        for name, shape in wanted.items()
        if theirs[name].shape != shape
    ]
    if problems:
        raise ValueError(f"These are no weights of GPT-2: {'; '.join(problems)}. Give GPT2LMHeadModel.state_dict().")
    return {ours: _turned(name, theirs[name]) for name, ours in expected.items()}


def config_of(state_dict: Mapping[str, Tensor], *, n_head: int | None = None) -> GPTConfig:
    """The shape of the GPT-2 that these weights are of.

    Args:
        state_dict: As :func:`from_hf` takes it, with the head if it is not tied.
        n_head: Attention heads, which no weight tells; None stands for heads of 64 channels.

    Raises:
        ValueError: There are no embeddings or no blocks.
    """
    theirs = _plain_names(state_dict)
    if missing := [name for name in ("wte.weight", "wpe.weight", "h.0.ln_1.weight") if name not in theirs]:
        raise ValueError(f"These are no weights of GPT-2: {', '.join(missing)} missing. Give GPT2Model.state_dict().")
    vocab_size, n_embd = theirs["wte.weight"].shape
    head = theirs.get("lm_head.weight", theirs["wte.weight"])
    return GPTConfig(
        n_layer=len({name.split(".")[1] for name in theirs if name.startswith("h.")}),
        n_head=n_head or max(1, n_embd // _HEAD_CHANNELS),
        n_embd=n_embd,
        vocab_size=vocab_size,
        context_length=len(theirs["wpe.weight"]),
        bias="ln_f.bias" in theirs,
        tie_head=head is theirs["wte.weight"] or head.equal(theirs["wte.weight"]),
    )


def _plain_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights by names without the prefix, without the masks."""
    return {name.removeprefix(_PREFIX): x for name, x in state_dict.items() if not name.endswith(_BUFFERS)}


def _their_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    number = module.split(".")[1] if module.startswith("blocks.") else ""
    generic = module.replace(f".{number}.", ".{}.", 1) if number else module
    return f"{_TO_THEIRS[generic].format(number)}.{kind}"


def _turned(name: str, weight: Tensor) -> Tensor:
    """A weight of theirs as we store it, or one of ours as they do."""
    return weight.T if name.endswith(_TRANSPOSED) else weight
