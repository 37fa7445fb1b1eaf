import copy
import importlib.metadata
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from gpt import GPT, GPTConfig
from mfu_callback import FlopCount, FlopCounter, count_flops
from mfu_callback.flops.rules.thop import conflict_with_thop
from tests.helpers.timm_alone import timm

with pytest.warns(DeprecationWarning, match="distutils Version classes are deprecated"):
    import thop

IMAGES = torch.randn(2, 3, 32, 32)
TOKENS = torch.randint(64, (2, 8))


def test_the_thop_part_is_what_thop_says_of_a_model_that_it_sees_whole():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.Flatten(), nn.Linear(8 * 900, 5))
    macs, _ = thop.profile(copy.deepcopy(model), (IMAGES,), verbose=False)
    assert count_flops(model, IMAGES) == FlopCount(forward=int(2 * macs), thop=int(2 * macs), functional=0)


class TwoParents(nn.Module):
    """One Linear under two names, called twice."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.two = nn.Sequential(self.one[0], nn.LayerNorm(8))

    def forward(self, x):
        return self.two(self.one(x))


def tiny_gpt2():
    shape = {"vocab_size": 64, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (lambda: GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=64, context_length=8)), TOKENS),
        (tiny_gpt2, TOKENS),
        (lambda: timm.create_model("resnet18"), IMAGES),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.AvgPool2d(2)), IMAGES),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.Upsample(scale_factor=2)), IMAGES),
        (lambda: nn.LSTM(8, 48), torch.randn(5, 2, 8)),
        (TwoParents, torch.randn(4, 8)),
    ],
)
@pytest.mark.parametrize("train", [True, False])
# thop's own rule of a norm warns of itself when thop runs it.
@pytest.mark.filterwarnings("ignore:This API is being deprecated:UserWarning")
def test_thop_modules_is_exactly_twice_what_thop_profile_returns(model, inputs, train):
    model = model().train(train)
    macs, _ = thop.profile(copy.deepcopy(model), (inputs,), verbose=False)
    before = (list(model.state_dict()), [part.training for part in model.modules()])
    with torch.no_grad(), FlopCounter(model, counter="thop-modules") as counter:
        model(inputs)
    assert counter.result().forward == int(2 * macs) > 0
    assert (list(model.state_dict()), [part.training for part in model.modules()]) == before


def test_thop_modules_names_what_thop_does_not_see():
    with FlopCounter(model := tiny_gpt2().eval(), counter="thop-modules") as counter:
        model(TOKENS)
    assert counter.result().uncounted == ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::addmm")


def test_thop_modules_names_a_call_that_thops_rule_does_not_understand_and_the_forward_goes_on():
    convolution = nn.Conv2d(3, 4, 3)
    with FlopCounter(convolution, counter="thop-modules") as counter:
        out = convolution(input=torch.zeros(2, 3, 8, 8))
    assert out.shape == (2, 4, 6, 6)
    (name,) = counter.result().uncounted
    assert name.startswith("Conv2d (thop's rule: ")


def test_dispatch_counts_the_same_without_thop():
    with FlopCounter(model := tiny_gpt2(), counter="dispatch") as counter:
        model(TOKENS)
    count = counter.result()
    assert (count.forward, count.thop) == (count_flops(model, TOKENS).forward, 0)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"counter": "torch"}, "counter='torch'"), ({"attention": "half"}, "attention='half'")]
)
def test_a_wrong_argument_names_itself(arguments, message):
    with pytest.raises(ValueError, match=message):
        FlopCounter(nn.Identity(), **arguments)


def test_thop_alone_is_no_conflict_and_ultralytics_one_is_said(tmp_path, monkeypatch):
    assert conflict_with_thop() is None
    metadata = tmp_path / "ultralytics_thop-2.0.18.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: ultralytics-thop\nVersion: 2.0.18\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "ultralytics-thop (AGPL-3.0) is installed" in conflict_with_thop()
    assert "pip install thop" in conflict_with_thop()


def test_the_count_is_right_under_whichever_rules_thops_name_gives(monkeypatch):
    """ultralytics-thop's rule of a Linear adds other figures; the operators decide."""
    rules = {nn.Linear: lambda module, inputs, output: setattr(module, "total_ops", 7)}
    monkeypatch.setattr("mfu_callback.flops.rules.thop._thop_rules", lambda: rules)
    count = count_flops(nn.Linear(8, 4), torch.zeros(3, 8))
    assert (count.forward, count.thop) == (2 * 3 * 32, 0)


def interpreter(version):
    """A Python of this version, or None."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *pyenv):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


IMPORT_THOP = """
import site, sys, types
from unittest.mock import MagicMock

torch = MagicMock(__version__="2.13.0")  # a stand-in: thop's import needs its names alone
sys.modules.update({"torch": torch, "torch.nn": torch.nn})
for name in ("functional", "modules", "modules.conv", "utils", "utils.rnn"):
    sys.modules[f"torch.nn.{name}"] = MagicMock()
sys.modules["numpy"] = MagicMock()
sys.modules["torch.nn.utils.rnn"].PackedSequence = tuple
site.addsitedir(sys.argv[1])
import thop
print(thop.profile.__name__)
"""


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_thop_imports_where_python_has_no_distutils_because_setuptools_is_declared(version, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    if Version(importlib.metadata.version("setuptools")) < Version("66.1"):
        pytest.skip("the setuptools here are older than Python 3.12")
    packages = Path(sysconfig.get_path("purelib"))
    shutil.copytree(packages / "thop", tmp_path / "thop")
    command = [python, "-I", "-W", "ignore", "-c", IMPORT_THOP, str(tmp_path)]
    without = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert "No module named 'distutils'" in without.stderr
    for name in ("setuptools", "_distutils_hack", "distutils-precedence.pth"):
        source = packages / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    with_setuptools = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert with_setuptools.stdout.strip() == "profile", with_setuptools.stderr
    requirements = importlib.metadata.requires("mfu-callback")
    assert any(line.startswith("setuptools") and "3.12" in line for line in requirements)
