"""What an error says in one line."""

from __future__ import annotations

import pytest

from mfu_callback.tools.errors import first_sentence, named

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79.11 GiB of which 1.10 GiB is free."
    " Process 7 has 78.00 GiB memory in use.\nException raised from malloc at ../c10/cuda/CUDACachingAllocator.cpp:1"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CUDA, "CUDA out of memory"),
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
            " allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)\nframe #0: c10::ThrowEnforceNotMet",
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes",
        ),
        (
            "The client socket has timed out\nframe #0: c10::Error(c10::SourceLocation)",
            "The client socket has timed out",
        ),
        ("it took 1,024.5 bytes of 3", "it took 1,024.5 bytes of 3"),
        ("\n  \n", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_only_the_first_sentence_is_told(text: str, expected: str) -> None:
    assert first_sentence(RuntimeError(text)) == expected


def test_a_sentence_without_an_end_is_cut() -> None:
    assert first_sentence(RuntimeError("x" * 10_000)) == f"{'x' * 200} ..."


def test_the_type_stands_before_the_sentence_and_only_once() -> None:
    assert named(ValueError("too long. Really.")) == "ValueError: too long"
    assert named(AssertionError()) == "AssertionError"
