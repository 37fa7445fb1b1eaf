"""The rooms of the package and their order: no file takes from a room above its own."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up: a file takes from its own room and from floors below, never from another room of its floor.
FLOORS = (
    ("tools",),
    ("flops", "peaks"),
    ("meter",),
    ("logs",),
    ("report",),
    ("board",),
    ("lightning", "loops"),
    ("finder",),
    ("",),  # __init__.py, the public names
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
KNOWS_LIGHTNING = ("lightning", "finder", "")


def imports(package: Path) -> dict[str, set[str]]:
    """What every module of a package imports, also inside functions; of the package itself down to its modules."""
    files = {module_name(file, package): file for file in package.rglob("*.py")}
    return {name: {resolved(one, files) for one in named_in(file)} for name, file in files.items()}


def module_name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def named_in(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by a relative name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def resolved(name: str, files) -> str:
    """The module that a dotted name leads to: the name itself, or what holds it."""
    return name if name in files else name.rpartition(".")[0] or name


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def wrong_ways(edges):
    """Imports that lead up, or to another room of the same floor."""
    return [
        f"{module} takes from {other}"
        for module, others in sorted(edges.items())
        for other in sorted(others)
        if other.split(".")[0] == module.split(".")[0]
        and room_of(module) != room_of(other)
        and FLOOR[room_of(other)] >= FLOOR[room_of(module)]
    ]


def those_that_import(library: str, edges):
    return {room_of(module) for module, others in edges.items() if any(o.split(".")[0] == library for o in others)}


@pytest.fixture(scope="module")
def edges():
    return imports(ROOT / "mfu_callback")


def test_every_room_has_its_floor(edges):
    assert {room_of(module) for module in edges} == set(FLOOR)


def test_no_file_takes_from_a_room_above_its_own(edges):
    assert wrong_ways(edges) == []


def test_what_measures_and_what_reads_knows_no_lightning(edges):
    rooms = those_that_import("lightning", edges) | those_that_import("pytorch_lightning", edges)
    assert rooms == set(KNOWS_LIGHTNING) - {""}


def test_no_files_import_each_other_in_a_circle(edges):
    try:
        TopologicalSorter({module: others & edges.keys() for module, others in edges.items()}).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_the_package_and_the_gpt_do_not_know_each_other(edges):
    assert "gpt" not in {other.split(".")[0] for others in edges.values() for other in others}
    gpt = imports(ROOT / "gpt")
    assert "mfu_callback" not in {other.split(".")[0] for others in gpt.values() for other in others}


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("flops/a.py", "from mfu_callback.meter.clock import Phase", ["flops.a takes from mfu_callback.meter.clock"]),
        ("flops/a.py", "from mfu_callback.peaks import Peak", ["flops.a takes from mfu_callback.peaks"]),
        ("meter/a.py", "def f():\n    from mfu_callback import finder", ["meter.a takes from mfu_callback.finder"]),
        ("lightning/a.py", "from mfu_callback import MFUCallback", ["lightning.a takes from mfu_callback"]),
        ("finder/a.py", "from mfu_callback.lightning import phases", []),
        ("peaks/a.py", "import lightning.pytorch", []),
    ],
)
def test_these_checks_find_what_is_wrong(tmp_path, file, line, found):
    package = tmp_path / "mfu_callback"
    for name in ("__init__", "meter/clock", "peaks/__init__", "finder/__init__", "lightning/phases"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text("")
    (package / file).parent.mkdir(exist_ok=True)
    (package / file).write_text(line)
    edges = imports(package)
    assert wrong_ways(edges) == [f"mfu_callback.{one}" for one in found]
    assert those_that_import("lightning", edges) == ({"peaks"} if line == "import lightning.pytorch" else set())
