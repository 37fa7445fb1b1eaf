"""The GPT under ModelParallelStrategy, on two processes with gloo, beside one process with the same batches."""

import pytest
import torch

from tests.helpers import sharded_gpt
from tests.helpers.launched import Launched
from tests.helpers.sharded_gpt import STEPS, trained
from tests.helpers.torch_features import skip_what_cannot_be_sharded


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on two processes, each made once."""
    skip_what_cannot_be_sharded("fsdp2")
    return Launched(sharded_gpt.__file__, tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("how", ["fsdp2", "fsdp2-checkpoint", "fsdp2-untied"])
def test_two_processes_with_sharded_weights_train_as_one_process_does(runs, how):
    alone = trained(how)
    for rank in runs.ends(how):
        assert len(rank["losses"]) == STEPS
        assert rank["losses"] == pytest.approx(alone.losses, rel=1e-5)
        for name, weight in alone.state_dict().items():
            torch.testing.assert_close(rank["weights"][name], weight, rtol=1e-4, atol=1e-5)


def test_every_parameter_is_sharded_and_a_tied_head_stays_tied(runs):
    names = [name for name, _ in trained("fsdp2").named_parameters()]
    for rank in runs.ends("fsdp2"):
        assert rank["sharded"] == names
        assert rank["tied"]


def test_a_strategy_that_would_split_tensors_is_refused_with_the_remedy(runs):
    for rank in runs.ends("tensors"):
        assert "tensor_parallel_size is 2" in rank["error"]
        assert "tensor_parallel_size=1" in rank["error"]
