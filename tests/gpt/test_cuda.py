"""What makes the GPT fast on CUDA. Nothing of it has run on hardware yet."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt import GPT, GPTConfig, GPTModule

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=128, vocab_size=512, context_length=64)


def on_cuda(dtype: torch.dtype = torch.bfloat16) -> tuple[GPT, torch.Tensor, torch.Tensor]:
    """A model, tokens and targets."""
    torch.manual_seed(0)
    tokens = torch.randint(512, (4, 65), device="cuda")
    return GPT(CONFIG).to("cuda", dtype), tokens[:, :-1], tokens[:, 1:]


def test_attention_in_bf16_is_flash_attention_forward_and_backward() -> None:
    model, tokens, targets = on_cuda()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where that kernel cannot be used
        model.loss(tokens, targets).backward()


def test_adamw_is_fused() -> None:
    assert GPTModule(CONFIG).to("cuda").configure_optimizers().defaults["fused"] is True


def test_the_compiled_loss_is_one_graph_and_the_same_loss() -> None:
    model, tokens, targets = on_cuda(torch.float32)
    expected = model.loss(tokens, targets)
    model.compile(fullgraph=True)
    torch.testing.assert_close(model.loss(tokens, targets), expected, rtol=1e-4, atol=1e-4)


def test_a_training_step_can_be_captured_as_a_cuda_graph() -> None:
    model, tokens, targets = on_cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True, capturable=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = model.loss(tokens, targets)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        first = next(step() for _ in range(3)).item()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for _ in range(5):
        graph.replay()
    assert loss.item() < first
