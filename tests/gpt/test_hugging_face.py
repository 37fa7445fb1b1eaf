"""Ours beside Hugging Face's GPT-2 with the same weights: an implementation that shares no code with ours."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import gpt.fused
from gpt import GPT, TextFile
from gpt.hugging_face import to_hf

README = Path(__file__).parents[2] / "README.md"
HEADS, LENGTH, STEPS = 4, 64, 12


def theirs(*, tied: bool = True) -> GPT2LMHeadModel:
    """A small GPT-2 with random weights, biases and norms among them, so that none can be mixed up unseen."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "n_positions": LENGTH, "n_embd": 64, "n_layer": 3, "n_head": HEADS}
    none = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    config = GPT2Config(**sizes, **none, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return model


def pair(*, tied: bool = True, dtype: torch.dtype = torch.float32) -> tuple[GPT, GPT2LMHeadModel]:
    """Ours and theirs, with the same weights."""
    twin = theirs(tied=tied).to(dtype)
    return GPT.from_hf(twin.state_dict(), n_head=HEADS), twin


def text_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first batches of this project's README, 4 x 64 bytes each."""
    torch.manual_seed(1)
    loader = TextFile(README, batch_size=4, context_length=LENGTH).train_dataloader()
    return list(islice(loader, STEPS))


def their_loss(model: GPT2LMHeadModel, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return model(tokens, labels=tokens, shift_labels=targets).loss


def curve(model: torch.nn.Module, loss) -> list[float]:
    """The losses of training on the text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for tokens, targets in text_batches():
        optimizer.zero_grad()
        value = loss(tokens, targets)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.fixture
def in_pieces(monkeypatch):
    """Attention and loss go through several blocks, of which the last is not full."""
    monkeypatch.setattr(gpt.fused, "ATTENTION_ROWS", 24)
    monkeypatch.setattr(gpt.fused, "LOSS_ROWS", 100)


@pytest.mark.parametrize("tied", [True, False])
def test_the_logits_in_fp32_are_theirs_to_a_hundred_thousandth(tied: bool) -> None:
    ours, twin = pair(tied=tied)
    tokens, _ = text_batches()[0]

    torch.testing.assert_close(ours(tokens), twin(tokens).logits, rtol=0, atol=1e-5)
    assert ours.config.tie_head is tied


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of all parameters, a tied one under both of its names."""
    return {name: weight.grad.float() for name, weight in model.named_parameters(remove_duplicate=False)}


def distances(some: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far each gradient is from the exact one, over the exact one's norm."""
    return {name: ((some[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact}


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_and_every_gradient_on_a_real_text_in_fp32_are_theirs(in_pieces, tied) -> None:
    ours, twin = pair(tied=tied)
    batch = text_batches()[0]
    loss, expected = ours.loss(*batch), their_loss(twin, *batch)
    loss.backward()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert max(distances(to_hf(gradients(ours)), gradients(twin)).values()) < 1e-5


@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_in_bf16_are_as_close_to_fp32_as_theirs_are(in_pieces, tied) -> None:
    ours, twin = pair(tied=tied, dtype=torch.bfloat16)
    exact = theirs(tied=tied)
    exact.load_state_dict(twin.state_dict())
    batch = text_batches()[0]
    losses = [ours.loss(*batch), their_loss(twin, *batch), their_loss(exact, *batch)]
    for loss in losses:
        loss.backward()

    assert losses[0].item() == pytest.approx(losses[2].item(), rel=1e-3)
    apart = distances(to_hf(gradients(ours)), gradients(exact))
    for name, distance in distances(gradients(twin), gradients(exact)).items():
        assert apart[name] < 2 * distance, name


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_the_loss_curve_on_a_real_text_is_theirs(in_pieces, dtype, most) -> None:
    ours, twin = pair(dtype=dtype)
    expected = curve(twin, lambda *batch: their_loss(twin, *batch))
    losses = curve(ours, ours.loss)

    assert losses == pytest.approx(expected, rel=most)
    assert losses[-1] < losses[0] - 1


def test_the_loss_without_gradients_is_that_with_them(in_pieces) -> None:
    ours, _ = pair()
    batch = text_batches()[0]
    with torch.no_grad():
        assert ours.loss(*batch).item() == ours.loss(*batch).item()
        without = ours.loss(*batch)
    assert without.item() == ours.loss(*batch).item()
    assert not without.requires_grad


def test_the_loss_is_differentiated_once(in_pieces) -> None:
    loss = pair()[0].loss(*text_batches()[0])
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call loss\\(\\) again"):
        loss.backward()


def test_a_frozen_head_or_body_gets_no_gradient(in_pieces) -> None:
    ours, _ = pair(tied=False)
    whole = pair(tied=False)[0]
    batch = text_batches()[0]
    ours.head.requires_grad_(False)
    ours.loss(*batch).backward()
    whole.loss(*batch).backward()
    assert ours.head.weight.grad is None
    torch.testing.assert_close(ours.norm.weight.grad, whole.norm.weight.grad)


def test_weights_load_without_their_prefix_and_without_a_head() -> None:
    twin = theirs()
    ours = GPT.from_hf(twin.transformer.state_dict(), n_head=HEADS)
    tokens, _ = text_batches()[0]

    torch.testing.assert_close(ours(tokens), twin(tokens).logits, rtol=0, atol=1e-5)
    assert ours.head.weight is ours.token_embedding.weight


def test_projections_are_transposed_and_what_is_loaded_is_a_copy() -> None:
    twin = theirs()
    ours = GPT.from_hf(twin.state_dict(), n_head=HEADS)
    stored = twin.transformer.h[1].mlp.c_fc.weight

    assert torch.equal(ours.blocks[1].mlp.expand.weight, stored.T)
    with torch.no_grad():
        ours.blocks[1].mlp.expand.weight.zero_()
    assert stored.abs().sum() > 0


def test_weights_that_are_renamed_and_back_are_the_same() -> None:
    state = theirs().state_dict()
    back = to_hf(GPT.from_hf(state, n_head=HEADS).state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], weight) for name, weight in state.items())


def test_the_masks_of_older_versions_are_passed_over() -> None:
    state = theirs().state_dict()
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, LENGTH, LENGTH)
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    GPT.from_hf(state, n_head=HEADS)


def test_heads_are_64_channels_wide_unless_said_otherwise() -> None:
    state = theirs().state_dict()
    assert GPT.from_hf(state).config.n_head == 1
    assert GPT.from_hf(state, n_head=2).config.n_head == 2


def test_what_is_missing_unexpected_or_of_another_shape_is_named() -> None:
    state = theirs().state_dict()
    del state["transformer.h.1.ln_2.bias"]
    state["transformer.h.1.attn.rotary"] = torch.zeros(3)
    state["transformer.h.2.mlp.c_fc.weight"] = torch.zeros(64, 100)
    with pytest.raises(ValueError, match="no weights of GPT-2") as error:
        GPT.from_hf(state, n_head=HEADS)
    for problem in (
        "h.1.ln_2.bias is missing",
        "h.1.attn.rotary is not a weight of this GPT",
        "h.2.mlp.c_fc.weight has the shape (64, 100) in place of (64, 256)",
    ):
        assert problem in str(error.value)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wte.weight, wpe.weight, h.0.ln_1.weight missing"):
        GPT.from_hf(torch.nn.Linear(2, 2).state_dict())
