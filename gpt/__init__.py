"""A GPT in the four sizes of GPT-2, for Lightning."""

from gpt.config import SIZES, GPTConfig, get_config
from gpt.data import RandomTokens, TextFile
from gpt.lit import GPTModule
from gpt.model import GPT

__all__ = ["GPT", "SIZES", "GPTConfig", "GPTModule", "RandomTokens", "TextFile", "get_config"]
