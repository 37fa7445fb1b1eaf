"""`python -m mfu_callback.flops`, as a command and by its function."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mfu_callback.flops.__main__ import main
from tests.helpers.closed_forms import attention, convolution, linear, mlp, transformer_block
from tests.helpers.torch_features import needs

of_transformers_5 = needs("transformers.integrations.moe", "5", of="transformers")
groups_heads = pytest.mark.skipif(
    "enable_gqa" not in (torch.nn.functional.scaled_dot_product_attention.__doc__ or ""),
    reason="torch 2.5 or later has enable_gqa",
)

MODELS = """
import torch
import torch.nn.functional as F
from torch import nn
from sizes import WIDTH

print("a line of the user's")
instance = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
number = 3


class Net(nn.Module):
    def __init__(self, width, name="net"):
        super().__init__()
        self.up, self.name = nn.Linear(WIDTH, width), name

    def forward(self, x, mask=None):
        return self.up(x) if mask is None else self.up(x) * mask


class Identity(nn.Module):
    def forward(self, x):
        return x


class Attends(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.text, self.image = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def forward(self, text, image=None):
        return self.text(text) if image is None else self.image(image)


compiled = torch.compile(nn.Sequential(nn.Linear(8, 4), nn.Sequential(nn.Linear(4, 2))), backend="eager")


class Routes(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x) if x.sum() < 1 else x


class Seed(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = torch.zeros(1).item()


Bare = type("Bare", (nn.Module,), {})


@torch.library.custom_op("command_test::own", mutates_args=())
def own(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


own.register_fake(torch.empty_like)


class Unknown(nn.Module):
    def forward(self, x):
        return own(x)


def make(width: int = 16):
    return Net(width)


def make_nothing():
    return "nothing"
"""

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of models with a module beside it; what importing it changes is put back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("__mfu_model__", "sizes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "sizes.py").write_text("WIDTH = 8\n")
    path = tmp_path / "models.py"
    path.write_text(MODELS)
    return path


def counted(capsys, *arguments: Any) -> dict[str, Any]:
    """What the command prints as JSON."""
    assert main([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert sum(found["per_module"].values()) == sum(found["per_rule"].values()) == found["forward"]
    assert found["thop"] + found["functional"] == found["forward"]
    assert sum(one["forward"] for one in found["per_operator"].values()) == found["forward"]
    return found


def refused(capsys, *arguments: Any) -> str:
    """The error, in one line, with which the command ends."""
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "Traceback" not in err
    return lines[-1].removeprefix("python -m mfu_callback.flops: ")


def config(directory: Path, **options: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(options))
    return path


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "mfu_callback.flops", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def gpt(layers: int, width: int, heads: int, batch: int, length: int, vocabulary: int) -> int:
    block = transformer_block(batch, length, width, heads, 4 * width)
    return layers * block + linear(batch * length, width, vocabulary)


def test_a_gpt_by_its_import_path_as_a_user_runs_it():
    done = run("gpt:GPTModule", "--arg", "config=gpt-small", "--batch", "2x1024:int64")
    assert done.returncode == 0, done.stderr
    forward = gpt(12, 768, 12, 2, 1024, 50257)
    assert done.stdout.splitlines()[:3] == [
        "GPTModule: 124,439,808 parameters, in train mode on the meta device",
        "batch: 2x1024:int64",
        f"forward: {forward:.4e} FLOPs, {forward / 2:.4e} per sample, {forward / 2048:.4e} per token",
    ]
    assert "│ model.blocks.*.attention.qkv " in done.stdout
    assert "│ aten::addmm " in done.stdout
    assert "not counted" not in done.stdout


def test_what_the_users_file_prints_is_not_part_of_the_json(file):
    done = run(f"{file}:make", "--batch", "5x8", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["forward"] == linear(5, 8, 16)
    assert done.stderr == "a line of the user's\n"


def test_a_reader_that_has_seen_enough_ends_it_quietly(file):
    command = f"{sys.executable} -W ignore -m mfu_callback.flops {file}:instance --batch 1x8 2>/dev/null | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Sequential: 46 parameters, in train mode on the meta device\n")


def test_arguments_are_literals_or_text(capsys):
    fields = "config={'n_layer': 2, 'n_head': 2, 'n_embd': 64, 'vocab_size': 97, 'context_length': 32}"
    found = counted(capsys, "gpt:GPTModule", "--arg", fields, "--arg", "learning_rate=1e-3", "--batch", "3x32:int64")
    forward = gpt(2, 64, 2, 3, 32, 97)
    assert (found["forward"], found["samples"], found["tokens"]) == (forward, 3, 96)
    assert found["per_dtype"] == {"float32": forward}
    assert (found["complete"], found["uncounted"], found["rule_errors"], found["notes"]) == (True, [], [], [])


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_class_a_function_and_a_module(device, file, capsys):
    options = ("--device", device)
    found = counted(capsys, f"{file}:Net", "--arg", "width=4", "--arg", "name=x", "--batch", "3x8", *options)
    assert (found["model"], found["forward"], found["tokens"]) == ("Net", linear(3, 8, 4), None)
    assert counted(capsys, f"{file}:make", "--batch", "3x8", *options)["forward"] == linear(3, 8, 16)
    found = counted(capsys, f"{file}:instance", "--batch", "3x8", *options)
    assert found["per_module"] == {"0": linear(3, 8, 4), "2": linear(3, 4, 2)}
    assert found["parameters"] == 46


def test_inputs_by_place_and_by_keyword(file, capsys):
    width = ("--arg", "width=4")
    found = counted(capsys, f"{file}:Net", *width, "--batch", "3x8", "--batch", "mask=3x4:bool")
    assert found["batch"] == ["3x8:float32", "mask=3x4:bool"]
    assert found["per_operator"]["aten::mul"]["calls"] == 1
    found = counted(capsys, f"{file}:Net", *width, "--batch", "mask=3x4:bool", "--batch", "x=3x8")
    assert found["forward"] == linear(3, 8, 4)


def test_the_backward_and_the_modes(file, capsys):
    found = counted(capsys, f"{file}:instance", "--batch", "3x8", "--backward", "--eval")
    of_weights, of_inputs = linear(3, 8, 4) + linear(3, 4, 2), linear(3, 4, 2)  # the batch needs no gradient
    assert (found["forward"], found["backward"], found["mode"]) == (of_weights, of_weights + of_inputs, "eval")
    assert found["backward_per_dtype"] == {"float32": found["backward"]}
    found = counted(capsys, f"{file}:instance", "--batch", "3x8")
    assert (found["backward"], found["recomputed"], found["mode"]) == (None, None, "train")


@groups_heads
@pytest.mark.parametrize(("option", "share"), [("full", 1.0), ("causal", 0.5)])
def test_attention_on_the_meta_device_is_that_of_a_fused_kernel(option, share, file, capsys):
    batch = ("--batch", "2x4x16x8", "--batch", "2x2x16x8", "--batch", "2x2x16x8")
    found = counted(capsys, f"{file}:Attends", *batch, "--attention", option)
    assert found["forward"] == attention(2, 4, 16, 16, 8) * share
    assert list(found["per_rule"]) == ["mfu-callback: aten::_scaled_dot_product_efficient_attention"]
    assert found["notes"] == []


def test_other_counters(file, capsys):
    assert counted(capsys, f"{file}:instance", "--batch", "3x8", "--counter", "dispatch")["thop"] == 0
    assert counted(capsys, f"{file}:instance", "--batch", "3x8", "--counter", "thop")["functional"] == 0


def test_one_table_or_the_other(file, capsys):
    assert main([f"{file}:instance", "--batch", "3x8", "--by", "module"]) == 0
    modules = capsys.readouterr().out
    assert main([f"{file}:instance", "--batch", "3x8", "--by", "operator"]) == 0
    operators = capsys.readouterr().out
    assert ("counted by" in modules, "bytes read" in modules) == (True, False)
    assert ("counted by" in operators, "bytes read" in operators) == (False, True)


def test_parts_that_the_batch_does_not_reach_are_named(file, capsys):
    assert main([f"{file}:Towers", "--batch", "3x8", "--by", "operator"]) == 0
    remark = "not called with this batch, so not counted: image. Give their inputs with --batch NAME=SHAPE."
    assert f"note: {remark}" in capsys.readouterr().out
    assert counted(capsys, f"{file}:Towers", "--batch", "3x8")["notes"] == [remark]


def test_a_compiled_model(file, capsys):
    found = counted(capsys, f"{file}:compiled", "--batch", "3x8")
    assert (found["forward"], found["notes"]) == (linear(3, 8, 4) + linear(3, 4, 2), [])


def test_nothing_is_left_in_torch(file, capsys):
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    before = list(hooks)
    counted(capsys, f"{file}:instance", "--batch", "3x8")
    refused(capsys, f"{file}:instance", "--batch", "3x9")
    assert (list(hooks), torch.get_default_device(), torch.is_grad_enabled()) == (before, torch.device("cpu"), True)


@pytest.mark.parametrize("by", ["operator", "module", "both"])
def test_what_has_no_rule_is_named_with_the_remedy(by, file, capsys):
    assert main([f"{file}:Unknown", "--batch", "3x8", "--by", by]) == 0
    out = capsys.readouterr().out
    assert out.count("not counted: command_test::own") == 1
    assert "Give its formula with mfu_callback.register_flop_formula, in the file that MODEL names" in out


@of_transformers_5
def test_a_llama_from_its_config(tmp_path, capsys):
    path = config(tmp_path, **LLAMA)
    block = 2 * linear(64, 48, 48) + 2 * linear(64, 48, 24) + 3 * linear(64, 48, 80)
    square = attention(1, 4, 64, 64, 12)
    found = counted(capsys, path)
    assert found["forward"] == 2 * (block + square) + linear(64, 48, 97)
    assert (found["model"], found["batch"]) == ("LlamaForCausalLM", ["input_ids=1x64:int64"])
    assert found["per_dtype"] == {"bfloat16": found["forward"]}
    causal = counted(capsys, path.parent, "--batch", "1x64", "--attention", "causal")
    assert causal["forward"] == 2 * (block + square // 2) + linear(64, 48, 97)
    longer = counted(capsys, path, "--batch", "2x32", "--batch", "attention_mask=2x32", "--device", "cpu")
    assert (longer["tokens"], longer["complete"]) == (64, True)


@of_transformers_5
def test_a_bert_from_its_config(tmp_path, capsys):
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
    path = config(tmp_path, model_type="bert", architectures=["BertForMaskedLM"], vocab_size=97, **sizes)
    found = counted(capsys, path, "--batch", "2x24", "--eval")
    prediction = linear(48, 48, 48) + linear(48, 48, 97)
    assert found["forward"] == 2 * transformer_block(2, 24, 48, 4, 80) + prediction
    assert counted(capsys, path)["batch"] == ["input_ids=1x512:int64"]  # the longest that BERT has positions for


def test_a_vit_from_its_config(tmp_path, capsys):
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
    options = {"architectures": ["ViTForImageClassification"], "image_size": 32, "patch_size": 8, **sizes}
    found = counted(capsys, config(tmp_path, model_type="vit", **options))
    tower = convolution(16, 3, 48, 64) + 2 * transformer_block(1, 17, 48, 4, 80)
    assert (found["forward"], found["batch"]) == (tower + linear(1, 48, 2), ["pixel_values=1x3x32x32:float32"])


def test_an_encoder_and_decoder_get_ids_each(tmp_path, capsys):
    sizes = {"d_model": 48, "d_ff": 80, "num_layers": 2, "num_heads": 4, "d_kv": 12, "vocab_size": 97}
    found = counted(capsys, config(tmp_path, model_type="t5", **sizes), "--batch", "2x24")
    assert (found["model"], found["batch"]) == ("T5Model", ["input_ids=2x24:int64", "decoder_input_ids=2x24:int64"])
    self_attention = 4 * linear(48, 48, 48) + attention(2, 4, 24, 24, 12)
    assert found["forward"] == 2 * (3 * self_attention + 2 * mlp(48, 48, 80))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt", "MODEL is 'gpt': give package.module:name, path/to/file.py:name, or the path of a Hugging Face config"),
        ("no_such_package:Net", "MODEL: 'no_such_package' cannot be imported (ModuleNotFoundError: No module named"),
        ("no/such/file.py:Net", "cannot be imported (FileNotFoundError: there is no file no/such/file.py)."),
        ("gpt.model:GTP", "MODEL: gpt.model has no 'GTP'. It has: Attention, MLP, Block, GPT,"),
        ("gpt.model:GPT", "missing 1 required positional argument: 'config'"),
        ("gpt.model:GPT", "Give its arguments with --arg NAME=VALUE, or name a function in a file"),
        ("no/such/config.json", "MODEL: there is no file no/such/config.json."),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_the_remedy(model, message, capsys):
    assert message in refused(capsys, model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["number"], "models.py:number is int, not a module, its class, or a function."),
        (["make_nothing"], "models.py:make_nothing returns str, not a torch.nn.Module."),
        (["instance", "--arg", "x=1"], "models.py:instance is a module already; name its class or a function"),
        (["make"], "forward of Net needs x: give each as --batch SHAPE[:DTYPE]."),
        (["make", "--arg", "depth=2"], "got an unexpected keyword argument 'depth'"),
        (["make", "--batch", "3x9"], "the model failed with --batch 3x9 (RuntimeError: "),
        (["make", "--batch", "3x9"], "models.py:18). Give the inputs that it needs with --batch [NAME=]SHAPE[:DTYPE]"),
        (["make", "--batch", "y=3x8"], "with --batch y=3x8 (TypeError: "),
        (["Routes", "--batch", "3x8"], "It reads values, which the meta device does not have: use --device cpu."),
        (["Seed", "--batch", "3x8"], "It reads values, which the meta device does not have: use --device cpu."),
        (["Bare", "--batch", "3x8"], "Bare defines no forward, which is what this command calls."),
        (["Identity", "--batch", "3x8", "--backward"], "--backward: no floating-point output of the model"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_the_remedy(arguments, message, file, capsys):
    name, *options = arguments
    assert message in refused(capsys, f"{file}:{name}", *options)


def test_a_model_that_reads_values_is_counted_on_the_cpu(file, capsys):
    found = counted(capsys, f"{file}:Routes", "--batch", "3x8", "--device", "cpu")
    assert (found["forward"], found["device"]) == (linear(3, 8, 8), "cpu")


def test_a_lightning_module_without_forward_is_refused(tmp_path, file, capsys):
    file.write_text("from lightning.pytorch import LightningModule\nclass Module(LightningModule): pass\n")
    said = refused(capsys, f"{file}:Module", "--batch", "3x8")
    assert said.startswith("Module is a LightningModule that defines no forward, which is what this command calls.")
    assert "give a function that returns the network inside" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "3,8"], "argument --batch: '3,8' is not [NAME=]SHAPE[:DTYPE], such as 8x3x224x224"),
        (["--batch", "0x8"], "argument --batch: '0x8' is not [NAME=]SHAPE[:DTYPE]"),
        (["--batch", "3x8:int128"], "argument --batch: torch has no dtype 'int128'"),
        (["--batch", "3x8:nn"], "argument --batch: torch has no dtype 'nn'"),
        (["--arg", "width"], "argument --arg: 'width' is not NAME=VALUE, such as layers=12"),
        (["--device", "gpu"], "argument --device: this machine has no device 'gpu' for torch"),
        (["--counter", "flops"], "argument --counter: invalid choice: 'flops'"),
    ],
)
def test_a_wrong_option_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["gpt:GPTModule", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_config_without_transformers(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = refused(capsys, config(tmp_path, **LLAMA))
    assert said.endswith("config.json: a Hugging Face config needs transformers: pip install transformers")


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"model_type": "none"}, [], "is no config that transformers"),
        ({**LLAMA, "architectures": ["OwnLlama"]}, [], "has no class 'OwnLlama', which its architectures name."),
        (LLAMA, ["--arg", "x=1"], "--arg is for a class or a function: write the values into the config file instead."),
        (LLAMA, ["--batch", "1x8", "--batch", "1x8"], "--batch: the first input is 'input_ids'; give the others as"),
        ({"model_type": "wav2vec2"}, [], "its input 'input_values' is: give --batch input_values=1x16000."),
        ({"model_type": "resnet"}, [], "its input 'pixel_values' is: give --batch pixel_values=1x3x224x224."),
    ],
)
def test_a_config_that_cannot_be_counted(options, arguments, message, tmp_path, capsys):
    assert message in refused(capsys, config(tmp_path, **options), *arguments)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    options = ("--arg", "--batch", "--device", "--eval", "--backward", "--attention", "--counter", "--by", "--json")
    assert [option for option in options if option not in out] == []
