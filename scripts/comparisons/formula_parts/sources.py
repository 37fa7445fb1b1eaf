"""Loads single functions out of a checkout's files, so that their formulas run without what their files import.

Nothing of a checkout is imported here: a function or class is cut out by its name and run on its own source. What it
calls of other libraries is handed in as a stand-in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OTHER_VERSION = (
    "The checkout is of another version: docs/flop-formulas.md names the commits that were read. "
    "Check one out with: git checkout COMMIT"
)


class CheckoutError(Exception):
    """A checkout is missing, or has not what is read of it."""


def find_checkout(checkouts: Path, repository: str) -> Path:
    """Returns the folder of a repository's checkout.

    Raises:
        CheckoutError: If it is not there.
    """
    folder = checkouts / repository.split("/")[1]
    if not folder.is_dir():
        raise CheckoutError(
            f"--checkouts {checkouts}: there is no {folder.name}/ in it. Clone it with: "
            f"git clone https://github.com/{repository} {folder}; or name the teams that are there with --teams."
        )
    return folder


def read(checkout: Path, file: str) -> str:
    """Returns the text of a file.

    Raises:
        CheckoutError: If the checkout has no such file.
    """
    try:
        return (checkout / file).read_text()
    except FileNotFoundError:
        raise CheckoutError(f"{checkout / file} is not there. {OTHER_VERSION}") from None


def load(
    checkout: Path, file: str, names: Iterable[str] | None, stand_ins: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Returns functions, classes and constants of a file, run from their own source.

    Args:
        checkout: Folder of the checkout.
        file: Path of the file in it.
        names: What to load; a method is found by its own name, and becomes a function. None is all but methods.
        stand_ins: What the file imports elsewhere.

    Raises:
        CheckoutError: If the file is not there, or a name is not in it.
    """
    tree = ast.parse(read(checkout, file))
    found = {name: node for node in _nodes(tree) for name in _names(node)}
    wanted = [name for node in tree.body for name in _names(node)] if names is None else list(names)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise CheckoutError(f"{checkout / file} has no {', '.join(missing)}. {OTHER_VERSION}")
    module = ast.Module(body=[found[name] for name in wanted], type_ignores=[])
    # With this flag annotations are not evaluated: they name what is not there.
    code = compile(module, str(checkout / file), "exec", flags=annotations.compiler_flag, dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": __name__, **(stand_ins or {})}
    exec(code, namespace)
    return namespace


def _nodes(tree: ast.Module) -> list[ast.stmt]:
    """Returns the methods of all classes, and after them what stands at the top, which wins where names are equal."""
    methods = [
        n for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for n in c.body if isinstance(n, ast.FunctionDef)
    ]
    return [*methods, *tree.body]


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []
