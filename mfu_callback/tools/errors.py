"""What an error says, short enough for one line of a log or a table."""

from __future__ import annotations

import re

_MOST_CHARACTERS = 200
_FAILED_CHECK = re.compile(r"\[enforce fail at [^\]]*\][^.]*\. ")  # torch's place in C++ and its condition
_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\[])|\s*\n")


def first_sentence(error: BaseException) -> str:
    r"""The first sentence of an error's text, without stack frames and the full stop; its type if it has no text.

    Example:
        >>> first_sentence(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nframe #0: c10::Error"))
        'CUDA out of memory'
    """
    text = _FAILED_CHECK.sub("", str(error).strip(), count=1)
    sentence = _END_OF_SENTENCE.split(text, maxsplit=1)[0].rstrip(".")
    if len(sentence) > _MOST_CHARACTERS:
        sentence = f"{sentence[:_MOST_CHARACTERS]} ..."
    return sentence or type(error).__name__


def named(error: BaseException) -> str:
    """The type of an error and its first sentence.

    Example:
        >>> named(ValueError("too long"))
        'ValueError: too long'
    """
    kind, sentence = type(error).__name__, first_sentence(error)
    return kind if sentence == kind else f"{kind}: {sentence}"
