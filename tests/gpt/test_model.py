import math
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt import GPT, SIZES, GPTConfig, get_config
from gpt.model import next_token_loss
from mfu_callback import FlopCounter

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=97, context_length=16)
# Wide enough that a standard deviation of its matrices is exact to 2 %.
WIDE = GPTConfig(n_layer=8, n_head=4, n_embd=128, vocab_size=1000, context_length=64)


def build(config: GPTConfig, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(config)


def random_tokens(batch: int, length: int, config: GPTConfig = TINY) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def parameter_count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("gpt-small", 124_439_808),
        ("gpt-medium", 354_823_168),
        ("gpt-large", 774_030_080),
        ("gpt-xl", 1_557_611_200),
    ],
)
def test_each_size_has_the_parameters_of_gpt2(size: str, parameters: int) -> None:
    with torch.device("meta"):
        model = GPT(get_config(size))

    assert parameter_count(model) == parameters
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_an_untied_head_adds_one_matrix_of_vocabulary_by_width() -> None:
    with torch.device("meta"):
        model = GPT(get_config("gpt-small", tie_head=False))

    assert parameter_count(model) == 124_439_808 + 50257 * 768


def test_a_size_is_looked_up_with_its_changes() -> None:
    assert get_config("gpt-medium", context_length=256, vocab_size=512, tie_head=False) == GPTConfig(
        n_layer=24, n_head=16, n_embd=1024, context_length=256, vocab_size=512, tie_head=False
    )


def test_an_unknown_size_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gpt-huge'.*gpt-small, gpt-medium, gpt-large, gpt-xl"):
        get_config("gpt-huge")


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no block_size: its fields are n_layer.*context_length"):
        get_config("gpt-small", block_size=512)


@pytest.mark.parametrize("field", ["n_layer", "n_head", "n_embd", "vocab_size", "context_length"])
def test_a_count_below_one_is_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is 0: give 1 or more"):
        get_config("gpt-small", **{field: 0})


def test_heads_that_cannot_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="n_embd is 768, which 7 heads cannot share equally"):
        get_config("gpt-small", n_head=7)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=f"dropout is {dropout}"):
        get_config("gpt-small", dropout=dropout)


def test_the_sizes_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        SIZES["gpt-small"] = TINY  # type: ignore[index]


def test_every_token_gets_a_logit_for_every_id() -> None:
    assert build(TINY)(random_tokens(3, 11)).shape == (3, 11, 97)


def test_a_later_token_does_not_change_earlier_logits() -> None:
    model, tokens = build(TINY), random_tokens(2, 16)
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % TINY.vocab_size

    before, after = model(tokens), model(changed)

    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_an_earlier_token_changes_every_later_logit() -> None:
    model, tokens = build(TINY), random_tokens(1, 16)
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % TINY.vocab_size

    moved = (model(tokens) - model(changed)).abs().amax(-1)

    assert (moved > 1e-6).all()


@pytest.mark.parametrize("length", [1, 16])
def test_the_shortest_and_the_longest_sequence_fit(length: int) -> None:
    assert build(TINY)(random_tokens(1, length)).shape == (1, length, 97)


def test_a_sequence_longer_than_the_context_is_refused_with_both_lengths() -> None:
    with pytest.raises(ValueError, match=r"17 tokens long.*context is 16.*larger context_length"):
        build(TINY)(random_tokens(1, 17))


def hugging_face_twin(model: GPT) -> GPT2LMHeadModel:
    """Hugging Face's GPT-2 with the same weights: an implementation that shares no code with ours."""
    config = model.config
    twin = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context_length,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            tie_word_embeddings=config.tie_head,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    names = {
        "token_embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "blocks": "transformer.h",
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.project": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.expand": "mlp.c_fc",
        "mlp.project": "mlp.c_proj",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    }
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            parts = name.split(".")
            theirs = names[parts[0]]
            if parts[0] == "blocks":
                theirs += f".{parts[1]}.{names['.'.join(parts[2:-1])]}"
            target = twin.get_parameter(f"{theirs}.{parts[-1]}")
            # Their projections are stored as (in, out), but for the embeddings and the head.
            transposed = parts[0] == "blocks" and weight.ndim == 2
            target.copy_(weight.T if transposed else weight)
    return twin


@pytest.mark.parametrize("tie_head", [True, False])
def test_the_logits_and_the_gradients_are_those_of_hugging_face(tie_head: bool) -> None:
    model = build(GPTConfig(n_layer=3, n_head=4, n_embd=64, vocab_size=97, context_length=16, tie_head=tie_head))
    with torch.no_grad():  # at their initial 0 and 1, biases and norms could be mixed up unseen
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    twin, tokens = hugging_face_twin(model), random_tokens(2, 16)

    ours, theirs = model(tokens), twin(tokens, labels=tokens)
    next_token_loss(ours[:, :-1], tokens[:, 1:]).backward()
    theirs.loss.backward()

    torch.testing.assert_close(ours, theirs.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.blocks[0].attention.qkv.weight.grad,
        twin.transformer.h[0].attn.c_attn.weight.grad.T,
        rtol=1e-3,
        atol=1e-6,
    )
    torch.testing.assert_close(
        model.token_embedding.weight.grad, twin.transformer.wte.weight.grad, rtol=1e-3, atol=1e-6
    )


def test_matrices_start_with_gpt2s_standard_deviations() -> None:
    model = build(WIDE)

    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            expected = 0.02 / math.sqrt(16) if name.endswith("project.weight") else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.02), name
            assert abs(weight.mean().item()) < 4 * expected / math.sqrt(weight.numel()), name


def test_biases_start_at_zero_and_norms_at_one() -> None:
    for name, weight in build(TINY).named_parameters():
        if weight.ndim == 1:
            assert torch.all(weight == (0.0 if name.endswith("bias") else 1.0)), name


def test_without_biases_there_is_not_one() -> None:
    model = build(GPTConfig(n_layer=1, n_head=1, n_embd=8, vocab_size=5, context_length=4, bias=False))

    assert [name for name, _ in model.named_parameters() if name.endswith("bias")] == []


def test_the_same_seed_draws_the_same_weights_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt.initialization._CHUNK", 100)
    many = build(TINY).state_dict()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = build(TINY).state_dict()

    assert all(torch.equal(many[name], one[name]) for name in many)


def test_another_seed_draws_other_weights() -> None:
    assert not torch.equal(build(TINY, seed=0).head.weight, build(TINY, seed=1).head.weight)


def test_no_two_parts_of_a_matrix_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt.initialization._CHUNK", 32)
    rows = build(TINY).token_embedding.weight  # one chunk a row

    assert rows.unique(dim=0).shape == rows.shape


def test_a_tied_head_is_the_token_embedding() -> None:
    model = build(TINY)

    assert model.head.weight is model.token_embedding.weight


def test_an_untied_head_has_weights_of_its_own() -> None:
    model = build(GPTConfig(n_layer=1, n_head=1, n_embd=8, vocab_size=5, context_length=4, tie_head=False))

    assert model.head.weight.data_ptr() != model.token_embedding.weight.data_ptr()
    assert not torch.equal(model.head.weight, model.token_embedding.weight)


def test_a_model_built_on_meta_can_be_given_memory_and_weights() -> None:
    with torch.device("meta"):
        model = GPT(TINY)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.init_weights()

    assert model.head.weight is model.token_embedding.weight
    assert torch.equal(model(random_tokens(1, 4)), build(TINY)(random_tokens(1, 4)))


def test_weights_are_made_in_the_default_dtype() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = build(TINY)
    finally:
        torch.set_default_dtype(torch.float32)

    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(random_tokens(1, 4)).dtype == torch.bfloat16


def test_dropout_acts_in_training_alone() -> None:
    model, tokens = build(GPTConfig(n_layer=1, n_head=2, n_embd=32, vocab_size=97, dropout=0.5)), random_tokens(1, 8)

    assert not torch.equal(model.train()(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


def test_the_model_compiles_in_one_graph() -> None:
    model, tokens = build(TINY), random_tokens(2, 16)
    expected = model(tokens)

    model.compile(backend="aot_eager", fullgraph=True)

    torch.testing.assert_close(model(tokens), expected)


def test_the_loss_of_even_odds_is_the_logarithm_of_the_vocabulary() -> None:
    loss = next_token_loss(torch.zeros(2, 3, 97), torch.zeros(2, 3, dtype=torch.long))

    assert loss.item() == pytest.approx(math.log(97), rel=1e-6)


def test_the_loss_of_bfloat16_logits_is_finer_than_bfloat16() -> None:
    logits = torch.randn(4, 256, 97, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = random_tokens(4, 256)
    exact = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten())

    loss = next_token_loss(logits, targets)

    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=2e-3)  # bfloat16's own steps are 3e-2 wide here


def checkpointing(config: GPTConfig) -> tuple[GPT, GPT]:
    """Two models with the same weights; the second checkpoints its activations."""
    model, recomputing = build(config), GPT(config, checkpoint_activations=True)
    recomputing.load_state_dict(model.state_dict())
    return model, recomputing


def test_checkpointed_activations_change_neither_loss_nor_gradients_nor_the_generator() -> None:
    tokens = random_tokens(2, 16)
    ends = []
    for model in checkpointing(replace(TINY, dropout=0.2)):
        torch.manual_seed(2)
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        ends.append((loss, [parameter.grad for parameter in model.parameters()], torch.get_rng_state()))

    (loss, gradients, state), (again, gradients_again, state_again) = ends
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, gradients_again, strict=True))
    assert torch.equal(state, state_again)


def bytes_kept(model: GPT) -> int:
    """The bytes that a forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(random_tokens(2, 16))
    return sum(sizes)


def test_checkpointed_activations_are_not_kept() -> None:
    model, recomputing = checkpointing(TINY)

    assert bytes_kept(recomputing) < bytes_kept(model) / 2
    assert bytes_kept(recomputing.eval()) == bytes_kept(model.eval())


def test_the_loss_compiles_in_one_graph() -> None:
    model, tokens = build(TINY), random_tokens(2, 16)
    expected = model.loss(tokens, tokens)

    model.compile(backend="aot_eager", fullgraph=True)

    torch.testing.assert_close(model.loss(tokens, tokens), expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_attention_and_head_count_as_many_flops_as_ever_with_twice_as_many_backward(precision: torch.dtype) -> None:
    model, tokens = build(TINY).to(precision), random_tokens(2, 16)
    forward = 2 * 16 * (2 * (24 * 32**2 + 4 * 16 * 32) + 2 * 32 * 97)

    with FlopCounter(model) as counter:
        model.loss(tokens, tokens).backward()

    count = counter.result()
    assert (count.forward, count.backward, count.uncounted) == (forward, 2 * forward, ())
