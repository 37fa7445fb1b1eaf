"""The wheel and the sdist: what they hold, what they need, and what an index shows of them."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mfu_callback

ROOT = Path(__file__).parents[1]
# Of libraries, not of Python's own.
LEFT_OUT = "sys.stdlib_module_names - {'__main__', '_distutils_hack'}"  # the hack: setuptools', at Python's start
IMPORTED = f"print(*sorted({{name.split('.')[0] for name in set(sys.modules)}} - {LEFT_OUT}))"
OWN_FIT = """
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from mfu_callback import BatchSizeFinder, MFUCallback

class Model(BoringModel):
    batch_size = 1

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(64, 32), batch_size=self.batch_size)

callback, finder = MFUCallback(peak=1e12), BatchSizeFinder(max_size=2)
Trainer(accelerator="cpu", max_steps=8, limit_val_batches=0, callbacks=[finder, callback]).fit(Model())
print("MFU", callback.summary.mfu, "batch size", finder.result.batch_size)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The directory with the sdist, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A directory with the wheel's files, as pip lays them."""
    directory = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        wheel.extractall(directory)
    return directory


@pytest.fixture(scope="module")
def metadata(installed):
    return PathDistribution(only(installed, "*.dist-info"))


def only(directory: Path, pattern: str) -> Path:
    (file,) = directory.glob(pattern)
    return file


def files_below(*names: str) -> set[str]:
    files = {file for name in names for file in (ROOT / name, *(ROOT / name).rglob("*")) if file.is_file()}
    return {file.relative_to(ROOT).as_posix() for file in files if file.suffix != ".pyc"}


def python(code: str, *options: str, path: Path, **variables: object):
    """Run code in a process that finds the package in a directory and nowhere else."""
    start = f"import site, sys; sys.path.insert(0, {str(path)!r}); site.addsitedir({str(path)!r})\n"
    command = [sys.executable, "-I", *options, "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **variables)


def test_the_wheel_holds_the_package_with_its_types_and_pages_and_nothing_else(installed, metadata):
    about = {f"{only(installed, '*.dist-info').name}/{name}" for name in ("METADATA", "WHEEL", "RECORD")}
    about |= {f"mfu_callback-{metadata.version}.dist-info/{name}" for name in ("entry_points.txt", "licenses/LICENSE")}
    held = {file.relative_to(installed).as_posix() for file in installed.rglob("*") if file.is_file()}
    assert held == files_below("mfu_callback") | about
    assert {"mfu_callback/py.typed", "mfu_callback/board/static/index.js"} < held


def test_the_sdist_holds_what_the_tests_and_the_scripts_need(built):
    with tarfile.open(only(built, "*.tar.gz")) as sdist:
        held = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    folders = files_below("mfu_callback", "gpt", "scripts", "tests", "docs")
    top = {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml", ".gitignore"}
    assert held == folders | top | {"PKG-INFO"}


def test_an_index_takes_both(built):
    files = [str(file) for file in built.iterdir()]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("PASSED"), len(files)) == (0, 2, 2), done.stdout + done.stderr


def test_what_an_index_shows_is_the_readme_without_links_that_lead_nowhere(metadata):
    shown, readme = metadata.metadata.get_payload(), (ROOT / "README.md").read_text()
    links = re.findall(r"\[[^\]]*\]\(([^)]*)\)", shown)
    assert len(links) > 0
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert [block.strip() for block in blocks(shown)] == [block.strip() for block in blocks(readme)]
    assert (
        re.sub(r"!?\[([^\]]*)\]\([^)]*\)|\*", r"\1", shown).split()
        == re.sub(r"!?\[([^\]]*)\]\([^)]*\)|\*", r"\1", readme).split()
    )


def blocks(text: str) -> list[str]:
    return re.findall(r"```.*?```", text, re.DOTALL)


def test_every_public_name_is_imported_without_a_warning(installed):
    done = python("from mfu_callback import *; print(MFUCallback.__name__)", "-W", "error", path=installed)
    assert (done.stdout, done.stderr) == ("MFUCallback\n", "")


def test_the_package_alone_imports_no_library(installed):
    code = "import mfu_callback\nfrom pathlib import Path\nprint(Path(mfu_callback.__file__).parents[1])\n"
    done = python(code + IMPORTED, path=installed)
    assert done.stdout.splitlines() == [str(installed), "mfu_callback"], done.stderr


def test_the_public_names_import_little_beyond_torch_and_lightning(installed):
    code = "import torch, lightning.pytorch, rich\nhad = set(sys.modules)\nfrom mfu_callback import *\n"
    done = python(code + IMPORTED.replace("sys.modules)", "sys.modules) - had", 1), path=installed)
    assert done.stdout.split() == ["mfu_callback", "platformdirs", "psutil", "rich"], done.stderr


def test_a_fit_needs_the_declared_dependencies_and_no_other(installed, metadata, tmp_path):
    declared = closure([Requirement(line) for line in metadata.requires])
    assert {"torch", "lightning", "thop"} < declared
    assert not declared & {"tensorboard", "matplotlib", "plotly", "transformers"}
    site = tmp_path / "site-packages"
    shutil.copytree(installed, site)
    for name in declared:
        link(name, site)
    done = python(OWN_FIT, "-S", path=site, cwd=tmp_path)
    assert re.search(r"^MFU \d\S* batch size 2$", done.stdout, re.MULTILINE), done.stdout + done.stderr


def link(name: str, site: Path) -> None:
    """Let a directory have all that pip lays of a distribution."""
    files = distribution(name).files
    for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(distribution(name).locate_file(top)).resolve())


def closure(requirements: list[Requirement]) -> set[str]:
    """The distributions that pip installs for these requirements, without any extra that is not asked for."""
    found: dict[tuple[str, str], None] = {}
    waiting = [(one, "") for one in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for asked in ("", *sorted(requirement.extras)):
            key = (canonicalize_name(requirement.name), asked)
            if key not in found:
                found[key] = None
                waiting += [(Requirement(line), asked) for line in distribution(requirement.name).requires or ()]
    return {name for name, _ in found}


@pytest.mark.parametrize("package", ["lightning", "pytorch-lightning"])
def test_the_malicious_releases_of_lightning_are_refused(metadata, package):
    (allowed,) = (one.specifier for one in map(Requirement, metadata.requires) if one.name == package)
    asked = ("2.4.0", "2.6.1", "2.6.2", "2.6.3", "2.6.6")
    assert [version for version in asked if version in allowed] == ["2.4.0", "2.6.1", "2.6.6"]


@pytest.mark.parametrize("python_version", ["3.10", "3.11", "3.12", "3.13"])
def test_the_pythons_are_named(metadata, python_version):
    assert f"Programming Language :: Python :: {python_version}" in metadata.metadata.get_all("Classifier")


def test_messages_name_libraries_to_install_and_no_extra_of_ours(metadata):
    files = [file for room in ("mfu_callback", "gpt", "scripts") for file in (ROOT / room).rglob("*.*")]
    texts = {file.name: file.read_text() for file in files if file.suffix in {".py", ".js"}}
    assert [name for name, text in texts.items() if re.search(r"mfu[-_]callback\[|'\.\[", text)] == []
    advised = {name: set(advised_in(text)) - {"torchtitan"} for name, text in texts.items()}
    asked_for = {Requirement(line).name for line in metadata.requires}
    assert {name: names - asked_for for name, names in advised.items() if names - asked_for} == {}
    assert advised["directory.py"] == {"tensorboard", "google-crc32c"}


def advised_in(text: str):
    """The names after "pip install"."""
    for names in re.findall(r"pip install (?:--\S+ )*([a-z][\w-]*(?: [a-z][\w-]*)*)", text):
        yield from names.split()


def test_every_public_name_is_in_the_wheel(installed):
    done = python("import mfu_callback; print(*mfu_callback.__all__)", path=installed)
    assert done.stdout.split() == mfu_callback.__all__
