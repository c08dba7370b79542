"""Every kind of policy: one interface, and log-probs that are those of plain Transformers."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.generation import logits_process

from agents import PPO, REINFORCE, Policy, collect, load
from agents.__main__ import main
from agents.cli.generate import PromptsTask
from agents.policy.context import FullContext
from agents.policy.decoder_only import CachedContext
from agents.policy.encoder_decoder import EncoderDecoderContext
from agents.policy.lstm import RecurrentContext
from agents.policy.sampling import Truncation
from tests.agents.helpers import make_policy as make_any
from tests.agents.helpers import word_tokenizer
from textenvs import TextGenVectorEnv, encoder_decoder

LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 100,
}  # fmt: skip
CONFIGS = {
    "llama": {"model_type": "llama", **LLAMA},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
    "gemma2": {
        "model_type": "gemma2",
        **LLAMA,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "final_logit_softcapping": 2.0,
    },
    "cohere": {"model_type": "cohere", **LLAMA, "logit_scale": 0.25},
    "t5": {"model_type": "t5", **T5},
    "t5-gated": {"model_type": "t5", **T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": {"model_type": "bart", **BART},
    "pegasus": {"model_type": "pegasus", **BART},
    "lstm": {"model_type": "lstm_lm", "hidden_size": 32, "dropout": 0.5},
}  # fmt: skip
ENCODER_DECODERS = ("t5", "t5-gated", "bart", "pegasus")
WORDS = [" a", " b", " a good c", " c b a bad", " a"]


def make(kind, seed=0, spread=0.4, **adapted):
    """A policy whose distributions differ from state to state."""
    policy = Policy.from_config(CONFIGS[kind], word_tokenizer(), seed=seed, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, spread, generator=generator)
        policy.value_head.weight.normal_(0.0, 0.3, generator=generator)
    return policy.adapt(**adapted)


def rows(seed=0, lanes=5, length=40):
    """Any ids at all: padding, BOS and EOS stand within them, and are tokens like any other."""
    return np.random.default_rng(seed).integers(0, 10, (lanes, length))


POSITIONS = torch.tensor([[4, 5, 6], [2, 3, 1], [7, 8, 9], [1, 1, 1], [1, 2, 3]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)


def plain_logits(policy, row, prompt, place):
    """Logits of the token at `place`, from an unpadded row through the model as Transformers has it."""
    if policy.model.config.is_encoder_decoder:
        start = torch.tensor([[policy.model.config.decoder_start_token_id]])
        answer = torch.cat([start, row[None, prompt:place]], dim=1)
        return policy.model(input_ids=row[None, :prompt], decoder_input_ids=answer).logits[0, -1]
    return policy.model(row[None, :place]).logits[0, -1]


def env_of(policy, num_envs=5, **kwargs):
    settings = {"task": PromptsTask(WORDS), "reward": lambda example, response: response.count("a") / 4.0, **kwargs}
    settings = {"max_new_tokens": 6, **settings}
    return TextGenVectorEnv(num_envs, tokenizer=policy.tokenizer, autoreset_mode="Disabled", **settings)


@pytest.mark.parametrize("kind", ["t5", "t5-gated", "bart", "pegasus", "lstm", "gemma2", "cohere"])
def test_a_step_costs_one_token_and_gives_what_whole_rows_give(kind):
    """Prompts of different lengths, lanes that idle, jump, start again, and are dropped."""
    policy = make(kind, spread=0.2)
    expected_kind = EncoderDecoderContext if kind in ENCODER_DECODERS else CachedContext
    expected_kind = RecurrentContext if kind == "lstm" else expected_kind
    fast, full = policy.context(5, 90), FullContext(policy.trunk, 5)
    assert type(fast) is expected_kind
    ids, before = rows(), np.zeros(5, dtype=int)
    for lengths in ([3, 1, 7, 2, 5], [4, 2, 8, 3, 6], [5, 3, 8, 4, 7], [6, 9, 8, 5, 8], [7, 10, 9, 6, 9]):
        lengths = np.array(lengths)
        moved = lengths > before
        expected, got = full.extend(ids, lengths), fast.extend(ids, lengths)
        torch.testing.assert_close(got[moved], expected[moved], atol=1e-5, rtol=1e-5)
        before = lengths
    ids[[3, 0]] = rows(1)[[3, 0]]  # two new texts, one with a longer prompt than any before
    for context in (fast, full):
        context.reset(np.array([3, 0]))
    lengths = np.array([12, 11, 10, 2, 10])
    torch.testing.assert_close(fast.extend(ids, lengths), full.extend(ids, lengths), atol=1e-5, rtol=1e-5)
    for context in (fast, full):
        context.keep(np.array([4, 0]))
    ids = np.concatenate([ids, rows(2, length=60)], axis=1)[[4, 0]]
    for lengths in (np.array([11, 13]), np.array([70, 14]), np.array([71, 15]), np.array([72, 80])):
        torch.testing.assert_close(fast.extend(ids, lengths), full.extend(ids, lengths), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt_neo", "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 20,
         "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64},
        {"model_type": "mistral", **LLAMA, "num_key_value_heads": 2, "sliding_window": 20},
    ],
    ids=["gpt_neo", "mistral"],
)  # fmt: skip
@pytest.mark.parametrize("max_new_tokens", [16, 40])
def test_text_beyond_a_models_window_is_out_of_its_sight_in_a_rollout_too(config, max_new_tokens):
    policy = Policy.from_config({**config, "initializer_range": 0.2}, word_tokenizer(), device="cpu")
    assert isinstance(policy.context(5, 16), CachedContext)
    assert isinstance(policy.context(5, 17), FullContext)  # a step looks at 32 places then
    env = env_of(policy, max_new_tokens=max_new_tokens)
    rollout = collect(env, policy, 20, seed=0, generator=torch.Generator().manual_seed(0))
    assert rollout.positions.max() > min(max_new_tokens, 24)
    found = policy.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask)
    torch.testing.assert_close(found.log_probs, rollout.log_probs, atol=1e-4, rtol=1e-4)
    row, place = int(rollout.positions.amax(dim=1).argmax()), int(rollout.positions.max())
    logits = plain_logits(policy, rollout.input_ids[row], 1, place)[: policy.tokenizer.vocab_size]
    step = int(rollout.positions[row].argmax())
    expected = torch.log_softmax(logits, dim=-1)[rollout.input_ids[row, place]]
    torch.testing.assert_close(rollout.log_probs[row, step], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_a_prompt_is_encoded_once(kind):
    policy = make(kind)
    calls = []
    policy.model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    context = policy.context(3, 20)
    for extra in range(4):
        context.extend(rows(lanes=3), np.array([3, 4, 5]) + extra)
    assert len(calls) == 1
    context.reset(np.array([1]))
    context.extend(rows(lanes=3), np.array([7, 2, 9]))
    assert len(calls) == 2


@pytest.mark.parametrize("kind", CONFIGS)
def test_evaluate_agrees_with_plain_transformers(kind):
    policy = make(kind)
    ids = torch.from_numpy(rows(3))
    got = policy.evaluate(ids, POSITIONS, MASK, temperature=0.7)
    for row, step in MASK.nonzero().tolist():
        place = int(POSITIONS[row, step])
        expected = torch.log_softmax(plain_logits(policy, ids[row], int(POSITIONS[row, 0]), place) / 0.7, dim=-1)
        torch.testing.assert_close(got.log_probs[row, step], expected[ids[row, place]], atol=1e-5, rtol=1e-5)
        entropy = -(expected.exp() * expected).sum()
        torch.testing.assert_close(got.entropies[row, step], entropy, atol=1e-5, rtol=1e-5)
    assert not got.log_probs[~MASK].any()


def grown(policy, ids, **settings):
    """The gradient of a loss of log-probs, entropies and values, by name."""
    weights = torch.linspace(1, 2, MASK.numel()).view(MASK.shape)

    def loss_of(now, at):
        return (weights[at] * (now.log_probs + now.entropies.square() + now.values * now.log_probs)).sum()

    policy.loss(ids, POSITIONS, MASK, loss_of, **settings).backward()
    found = {name: one.grad for name, one in policy.named_parameters() if one.grad is not None}
    policy.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("adapted", [{}, {"gradient_checkpointing": True}], ids=["", "checkpointed"])
@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize(
    ("kind", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gemma2", "eager")]
)
def test_packed_rows_give_what_padded_rows_give(kind, attention, critic, adapted):
    policy = make(kind, spread=0.2, **adapted)
    policy.model.set_attn_implementation(attention)
    if critic == "separate":
        policy.separate_critic()
    ids = torch.from_numpy(rows(3))
    padded, gradient = policy.evaluate(ids, POSITIONS, MASK, temperature=0.7), grown(policy, ids, temperature=0.7)
    widths = []
    policy.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    policy.trunk.packs_anywhere = True
    packed = policy.evaluate(ids, POSITIONS, MASK, temperature=0.7)
    assert widths[-1] == (1, 6 + 3 + 9 + 1 + 3), "no padding: each row up to its last action"
    for name in ("log_probs", "entropies", "values"):
        torch.testing.assert_close(getattr(packed, name), getattr(padded, name), atol=1e-5, rtol=1e-5)
    again = grown(policy, ids, temperature=0.7)
    assert again.keys() == gradient.keys()
    for name, one in again.items():
        torch.testing.assert_close(one, gradient[name], atol=1e-5 * float(gradient[name].abs().max()), rtol=0)


@pytest.mark.parametrize("kind", ["t5", "lstm"])
def test_models_that_do_not_read_packed_rows_get_padded_ones(kind):
    policy = make(kind)
    ids = torch.from_numpy(rows(3))
    padded = policy.evaluate(ids, POSITIONS, MASK)
    policy.trunk.packs_anywhere = True
    torch.testing.assert_close(policy.evaluate(ids, POSITIONS, MASK).log_probs, padded.log_probs)


def test_a_model_that_mixes_packed_rows_up_gets_padded_ones_and_the_log_says_so(caplog):
    policy = make_any("opt")  # counts positions itself
    ids = torch.from_numpy(rows(3))
    padded = policy.evaluate(ids, POSITIONS, MASK)
    policy.trunk.packs_anywhere = True
    torch.testing.assert_close(policy.evaluate(ids, POSITIONS, MASK).log_probs, padded.log_probs)
    assert "OPTForCausalLM does not read packed rows (its packed states differ" in caplog.text


@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_neighbours_and_what_follows_an_action_change_nothing(kind):
    policy = make(kind)
    ids = torch.from_numpy(rows(4))
    whole = policy.evaluate(ids, POSITIONS, MASK)
    changed = ids.clone()
    for row in range(5):
        changed[row, int((POSITIONS * MASK)[row].max()) + 1 :] = 2
    after = policy.evaluate(changed[:, :20], POSITIONS, MASK)
    torch.testing.assert_close(after.log_probs, whole.log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.values, whole.values, atol=1e-5, rtol=1e-5)
    for row in (0, 2):
        alone = policy.evaluate(ids[row : row + 1], POSITIONS[row : row + 1], MASK[row : row + 1])
        torch.testing.assert_close(alone.log_probs[0], whole.log_probs[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("kind", ["llama", "t5", "bart", "lstm", "gemma2"])
def test_what_is_recorded_is_what_is_evaluated(kind, critic):
    """Under a temperature, with special tokens inside responses; so the first ratio is 1."""
    policy = make(kind, spread=0.3)
    if critic == "separate":
        policy.separate_critic()
        with torch.no_grad():
            for parameter in policy.critic.parameters():
                parameter.mul_(1.1)
    rollout = collect(env_of(policy), policy, 20, seed=1, temperature=1.4, generator=torch.Generator().manual_seed(0))
    again = policy.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask, temperature=1.4)
    torch.testing.assert_close(again.log_probs, rollout.log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.values, rollout.values, atol=1e-5, rtol=1e-5)
    actions = rollout.input_ids.gather(1, rollout.positions)[rollout.response_mask]
    assert {1, 2} & set(actions.tolist()), "no special token was sampled inside a response"
    reference = policy.frozen_copy()
    same = reference.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask, temperature=1.4)
    torch.testing.assert_close(same.log_probs, again.log_probs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_the_view_of_an_encoder_decoder_gives_the_same_numbers(kind):
    """`textenvs.encoder_decoder` through the plain model, and `predict`."""
    policy = make(kind)
    env = env_of(policy)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        view = encoder_decoder(observation, policy.model.config.decoder_start_token_id)
        view = {name: torch.from_numpy(np.asarray(array, dtype=np.int64)) for name, array in view.items()}
        logits = policy.model(**view).logits
        last = view["decoder_attention_mask"].sum(dim=1) - 1
        expected = logits[torch.arange(5), last].argmax(dim=-1).numpy()
        assert policy.predict(observation, deterministic=True).tolist() == expected.tolist()
        observation, *_ = env.step(np.array([3, 4, 1, 2, 3]))


def test_an_encoder_decoder_has_room_for_prompt_and_response_each():
    policy = make("bart")
    context = policy.context(2, 190)
    ids = rows(lanes=2, length=190)
    context.extend(ids, np.array([95, 90]))
    context.extend(ids, np.array([190, 180]))
    with pytest.raises(ValueError, match="each fit into the model's 100 positions"):
        policy.context(2, 190).extend(ids, np.array([101, 3]))


def test_an_encoder_decoder_without_a_start_token_says_so():
    config = transformers.T5Config(**T5, vocab_size=10, decoder_start_token_id=None, pad_token_id=2)
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        Policy.from_config(config, word_tokenizer(), device="cpu")


# Making, saving ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_policies_come_back_and_load_in_plain_transformers(kind, tmp_path):
    policy = make(kind)
    policy.separate_critic()
    policy.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    again = Policy.from_pretrained(tmp_path, device="cpu")
    assert (policy.pretrained, again.pretrained) == (False, False), "random weights stay random weights"
    ids = torch.from_numpy(rows(5))
    one, other = policy.evaluate(ids, POSITIONS, MASK), again.evaluate(ids, POSITIONS, MASK)
    assert torch.equal(one.log_probs, other.log_probs)
    assert torch.equal(one.values, other.values)
    auto = AutoModelForSeq2SeqLM if kind in ENCODER_DECODERS else AutoModelForCausalLM
    stranger = auto.from_pretrained(tmp_path).eval()
    whole = copy.copy(policy)
    whole.model = stranger
    for row in (0, 2):
        torch.testing.assert_close(
            plain_logits(whole, ids[row], 4, 8), plain_logits(policy, ids[row], 4, 8), atol=1e-6, rtol=1e-6
        )


def test_the_bundled_model_is_pretrained_and_a_config_is_not(tmp_path):
    assert Policy.from_pretrained("tiny", device="cpu").pretrained
    assert not make("llama").pretrained
    tiny = PPO("tiny", "TextGen-v0", device="cpu", env_kwargs={"max_new_tokens": 4}, num_envs=4, episodes_per_update=4)
    tiny.save(tmp_path)
    assert load(tmp_path, device="cpu").policy.pretrained


def test_configs_are_checked():
    with pytest.raises(TypeError, match="Did you mean 'hidden_size'"):
        Policy.from_config({"model_type": "llama", "hiden_size": 32}, word_tokenizer())
    with pytest.raises(ValueError, match="model type that Transformers knows"):
        Policy.from_config({"model_type": "nobody"}, word_tokenizer())
    with pytest.raises(ValueError, match="'model_type'"):
        Policy.from_config({"hidden_size": 32}, word_tokenizer())
    state = torch.random.get_rng_state()
    one, two, three = (Policy.from_config(CONFIGS["t5"], word_tokenizer(), seed=s, device="cpu") for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    first = [next(iter(policy.model.parameters())) for policy in (one, two, three)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_an_agent_takes_a_config_and_the_tokenizer_of_its_environment(tmp_path):
    agent = REINFORCE(
        CONFIGS["lstm"], "TextGen-v0", device="cpu", env_kwargs={"max_new_tokens": 4}, num_envs=4,
        episodes_per_update=4, policy_kwargs={"freeze": 0},
    )  # fmt: skip
    assert agent.policy.model.config.model_type == "lstm_lm"
    start = (agent.config.kl_coef, agent.config.entropy_coef, agent.config.learning_rate)
    assert start == (0.0, 0.1, 2e-3), "KL to random weights means nothing, and they have all to find out"
    assert agent.optimizer.param_groups[0]["lr"] == 2e-3
    agent.learn(20, folder=tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.policy.pretrained, "it has learned something by now"
    assert again.config == agent.config, "and goes on as it began"
    assert not again.policy.model.model.embed_tokens.weight.requires_grad
    again.learn(agent.timesteps + 1)


# What is trained, and how --------------------------------------------------------------------------------------------


def gradients(policy):
    ids = torch.from_numpy(rows(6))
    policy.zero_grad()
    found = policy.evaluate(ids, POSITIONS, MASK)
    (found.log_probs.sum() + found.entropies.sum() + found.values.square().sum()).backward()
    return {name: one.grad.clone() for name, one in policy.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "lstm"])
def test_gradient_checkpointing_changes_memory_and_no_number(kind):
    """With dropout in the config, which checkpointing must not switch on."""
    settings = {**CONFIGS[kind]}
    name = {"gpt2": "resid_pdrop", "t5": "dropout_rate", "t5-gated": "dropout_rate"}.get(kind)
    settings.update({name: 0.5} if name else {"dropout": 0.5} if kind in ("bart", "pegasus") else {})
    policy = Policy.from_config(settings, word_tokenizer(), device="cpu")
    policy.separate_critic()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        expected = gradients(policy)
    plain, kept = sum(kept), []
    policy.adapt(gradient_checkpointing=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        got = gradients(policy)
    assert got.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(got[parameter], gradient, atol=1e-6, rtol=1e-5)
    assert not any(module.training for module in policy.modules())
    assert "gradient_checkpointing" in policy.__dict__
    assert plain > 0
    context = policy.context(2, 8)
    hidden = context.extend(rows(lanes=2), np.array([3, 4]))
    full = FullContext(policy.trunk, 2).extend(rows(lanes=2), np.array([3, 4]))
    torch.testing.assert_close(hidden, full, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_keeps_less():
    """What is saved for the backward pass of a long row in a deep model, in elements."""
    policy = Policy.from_config({**CONFIGS["llama"], "num_hidden_layers": 8}, word_tokenizer(), device="cpu")
    ids, positions = torch.from_numpy(rows(0, length=200)), torch.tensor([[198, 199]] * 5)
    saved = []
    for on in (False, True):
        policy.adapt(gradient_checkpointing=on)
        alive = [0]

        def pack(tensor, alive=alive):
            alive[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            policy.evaluate(ids, positions, torch.ones(5, 2, dtype=torch.bool))
        saved.append(alive[0])
    assert saved[1] < saved[0] / 3


def test_models_without_such_layers_refuse_checkpointing():
    with pytest.raises(ValueError, match="layers that can be checkpointed"):
        make("lstm", gradient_checkpointing=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart", "lstm"])
def test_freezing_the_first_layers(kind, tmp_path):
    policy = make(kind, freeze=1)
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    optimizer = torch.optim.SGD([one for one in policy.parameters() if one.requires_grad], lr=1.0)
    gradients(policy)
    optimizer.step()
    moved = {name for name, parameter in policy.named_parameters() if not torch.equal(parameter, before[name])}
    first = {"llama": "layers.0.", "gpt2": "h.0.", "t5": "block.0.", "bart": "layers.0.", "lstm": "layers.0."}[kind]
    assert not {name for name in moved if first in name or "embed" in name or ".wte." in name or ".wpe." in name}
    assert {name for name in moved if first.replace("0", "1") in name}
    assert "value_head.weight" in moved
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path, device="cpu")
    for (name, one), other in zip(policy.named_parameters(), again.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad, name


def test_freezing_by_name():
    policy = make("llama", freeze=["model.*.mlp.*", "value_head.bias"])
    frozen = {name for name, one in policy.named_parameters() if not one.requires_grad}
    assert len(frozen) == 2 * 3 + 1
    assert all(".mlp." in name or name == "value_head.bias" for name in frozen)
    with pytest.raises(ValueError, match="fits some parameter"):
        make("llama", freeze="model.*.mpl.*")
    with pytest.raises(ValueError, match="from 0 to 2 layers"):
        make("llama", freeze=3)
    with pytest.raises(ValueError, match="something left to train"):
        make("llama", freeze="*")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart", "lstm"])
def test_bfloat16_computes_in_it_and_keeps_float32_weights(kind):
    """A rollout's log-probs and those of `evaluate` differ by rounding, not more; weights and updates are float32."""
    exact, policy = make(kind, spread=0.1), make(kind, spread=0.1, precision="bfloat16")
    rollout = collect(env_of(policy), policy, 20, seed=1, generator=torch.Generator().manual_seed(0))
    one = policy.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask)
    two = exact.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask)
    assert (one.log_probs - two.log_probs).abs().max() > 1e-6, "nothing was computed in bfloat16"
    torch.testing.assert_close(one.log_probs, two.log_probs, atol=0.05, rtol=0.05)
    torch.testing.assert_close(one.log_probs, rollout.log_probs, atol=0.05, rtol=0.05)
    assert one.log_probs.dtype == one.values.dtype == rollout.log_probs.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in gradients(policy).values())
    assert all(parameter.dtype == torch.float32 for parameter in policy.parameters())


# Truncation: for evaluation only -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "warper"),
    [
        ({"top_k": 3}, logits_process.TopKLogitsWarper(3)),
        ({"top_p": 0.7}, logits_process.TopPLogitsWarper(0.7)),
        ({"top_p": 0.05}, logits_process.TopPLogitsWarper(0.05)),
        ({"min_p": 0.2}, logits_process.MinPLogitsWarper(0.2)),
    ],
)
def test_truncation_is_that_of_transformers(settings, warper):
    logits = 2 * torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    expected = torch.isfinite(warper(None, logits.clone()))
    assert torch.equal(Truncation(**settings).kept(logits), expected)
    assert 0 < expected.float().mean() < 1


def test_truncations_work_on_what_the_one_before_left():
    logits = 2 * torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    left = logits_process.TopKLogitsWarper(4)(None, logits.clone())
    left = logits_process.TopPLogitsWarper(0.8)(None, left)
    left = logits_process.MinPLogitsWarper(0.3)(None, left)
    kept = Truncation(top_k=4, top_p=0.8, min_p=0.3).kept(logits)
    assert torch.equal(kept, torch.isfinite(left))


def test_truncated_actions_and_their_log_probs():
    policy = make("llama")
    hidden = torch.randn(1, 32, generator=torch.Generator().manual_seed(1)).repeat(2000, 1)
    step = policy.act(hidden, generator=torch.Generator().manual_seed(0), truncation=Truncation(top_k=2))
    logits = policy.model.lm_head(hidden[0]).detach()
    best = logits.topk(2)
    assert set(step.actions.tolist()) == set(best.indices.tolist())
    expected = torch.log_softmax(best.values, dim=-1)
    for place, action in enumerate(best.indices.tolist()):
        torch.testing.assert_close(step.log_probs[step.actions == action][0], expected[place], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": -0.1}])
def test_truncations_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="Expected"):
        Truncation(**bad)


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p"])
def test_training_refuses_truncation_with_the_reason(name):
    with pytest.raises(ValueError, match=r"its log-prob is -inf.*evaluate"):
        PPO("tiny", "TextGen-v0", device="cpu", **{name: 1})


def test_evaluate_and_generate_truncate(capsys):
    agent = PPO("tiny", "TextGen-v0", device="cpu", env_kwargs={"max_new_tokens": 6}, num_envs=8, episodes_per_update=8)
    greedy = agent.evaluate(8, deterministic=True)
    likeliest = agent.evaluate(8, top_k=1)
    assert likeliest.responses == greedy.responses
    assert likeliest.kl == pytest.approx(greedy.kl, abs=1e-4)
    assert greedy.kl > 1, "a policy that takes one token alone is not the one that samples"
    assert agent.evaluate(8).responses != greedy.responses
    texts = []
    for option in ("--top-k=1", "--deterministic", "--top-p=0.9", "--min-p=0.1"):
        main(["generate", "Once upon a time", "-n", "2", "--max-new-tokens", "8", "--device", "cpu", option])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[2] != texts[0]


def test_the_command_line_makes_and_adapts_a_policy(tmp_path):
    main(
        [
            "train", "--model", json.dumps(CONFIGS["bart"]), "--freeze", "1", "--precision", "bfloat16",
            "--gradient-checkpointing", "--total-timesteps", "20", "--max-new-tokens", "4", "--num-envs", "4",
            "--episodes-per-update", "4", "--eval-episodes", "2", "--samples", "1", "--device", "cpu",
            "--output", str(tmp_path / "run"),
        ]
    )  # fmt: skip
    policy = load(tmp_path / "run", device="cpu").policy
    assert policy.model.config.model_type == "bart"
    assert (policy.precision, policy.gradient_checkpointing) == ("bfloat16", True)
    assert not policy.model.model.shared.weight.requires_grad


# LoRA ----------------------------------------------------------------------------------------------------------------


class TestLoRA:
    @pytest.fixture(autouse=True)
    def needs_peft(self):
        pytest.importorskip("peft", reason="peft is not installed: pip install 'textenvs[agents,lora]'")

    def moved(self, kind, **settings):
        policy = make(kind, **{"lora": 4, **settings})
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.3, generator=generator)
        return policy

    def log_probs(self, policy):
        with torch.no_grad():
            return policy.evaluate(torch.from_numpy(rows(7)), POSITIONS, MASK).log_probs

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
    def test_adapters_alone_are_trained_and_change_nothing_at_first(self, kind):
        plain, policy = make(kind), make(kind, lora=4)
        assert torch.equal(self.log_probs(policy), self.log_probs(plain))
        trained = {name for name, one in policy.named_parameters() if one.requires_grad}
        assert all("lora_" in name or name.startswith("value_head") for name in trained)
        assert gradients(policy).keys() == trained

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
    def test_the_reference_is_the_base_in_the_same_memory(self, kind):
        base, policy = make(kind), self.moved(kind)
        reference = policy.frozen_copy()
        assert not torch.allclose(self.log_probs(policy), self.log_probs(base), atol=0.01)
        assert torch.equal(self.log_probs(reference), self.log_probs(base))
        assert {id(one) for one in reference.parameters()} <= {id(one) for one in policy.parameters()}
        assert any(parameter.requires_grad for parameter in policy.parameters())
        context = reference.context(5, 20)
        hidden = context.extend(rows(7), np.array([3, 2, 4, 5, 6]))
        expected = base.context(5, 20).extend(rows(7), np.array([3, 2, 4, 5, 6]))
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)

    def test_the_reference_leaves_the_policy_its_critic(self):
        policy = self.moved("llama")
        critic = policy.separate_critic()
        assert policy.frozen_copy().critic is None
        assert policy.critic is critic

    def test_adapters_come_back_after_an_exception(self):
        from agents.policy import lora

        policy = self.moved("llama")
        before, trained = self.log_probs(policy), [one.requires_grad for one in policy.parameters()]

        def fails():
            with lora.off(policy.model):
                assert not torch.allclose(self.log_probs(policy), before, atol=0.01)
                raise RuntimeError("inside")

        with pytest.raises(RuntimeError, match="inside"):
            fails()
        assert torch.equal(self.log_probs(policy), before)
        assert [one.requires_grad for one in policy.parameters()] == trained

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
    def test_saved_adapters_come_back_and_merged_ones_are_a_plain_model(self, kind, tmp_path):
        policy = self.moved(kind)
        policy.save_pretrained(tmp_path / "apart")
        assert not (tmp_path / "apart" / "model.safetensors").exists()
        again = Policy.from_pretrained(tmp_path / "apart", device="cpu")
        assert torch.equal(self.log_probs(again), self.log_probs(policy))
        assert torch.equal(self.log_probs(again.frozen_copy()), self.log_probs(policy.frozen_copy()))
        trained = {name for name, one in again.named_parameters() if one.requires_grad}
        assert trained == {name for name, one in policy.named_parameters() if one.requires_grad}
        policy.save_pretrained(tmp_path / "merged", merge=True)
        plain = Policy.from_pretrained(tmp_path / "merged", device="cpu")
        assert not plain.has_adapters
        assert not any("lora" in name for name, _ in plain.named_parameters())
        torch.testing.assert_close(self.log_probs(plain), self.log_probs(policy), atol=1e-5, rtol=1e-5)
        auto = AutoModelForSeq2SeqLM if kind in ENCODER_DECODERS else AutoModelForCausalLM
        stranger = auto.from_pretrained(tmp_path / "merged").eval()
        assert stranger.state_dict().keys() == make(kind).model.state_dict().keys()

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
    def test_the_critic_of_a_merged_policy_is_merged_too(self, kind, tmp_path):
        policy = self.moved(kind)
        policy.separate_critic()
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, parameter in policy.critic.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.3, generator=generator)
        ids = torch.from_numpy(rows(7))
        values = policy.state_values(ids, POSITIONS, MASK)
        assert not torch.allclose(values, self.moved(kind).state_values(ids, POSITIONS, MASK), atol=0.01)
        policy.save_pretrained(tmp_path, merge=True)
        plain = Policy.from_pretrained(tmp_path, device="cpu")
        torch.testing.assert_close(plain.state_values(ids, POSITIONS, MASK), values, atol=1e-5, rtol=1e-5)
        assert torch.equal(policy.state_values(ids, POSITIONS, MASK), values)

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
    def test_a_saved_reference_is_the_plain_base(self, kind, tmp_path):
        base, policy = make(kind), self.moved(kind)
        policy.frozen_copy().save_pretrained(tmp_path)
        again = Policy.from_pretrained(tmp_path, device="cpu")
        assert not again.has_adapters
        assert torch.equal(self.log_probs(again), self.log_probs(base))
        assert policy.has_adapters
        assert not torch.allclose(self.log_probs(policy), self.log_probs(base), atol=0.01)

    def test_loading_adapters_draws_nothing_from_the_global_generator(self, tmp_path):
        self.moved("llama").save_pretrained(tmp_path)
        before = torch.get_rng_state()
        Policy.from_pretrained(tmp_path, device="cpu")
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_named_base_is_not_written_again(self, tmp_path):
        policy = Policy.from_pretrained("tiny", device="cpu").adapt(lora={"r": 2, "target_modules": ["q_proj"]})
        policy.save_pretrained(tmp_path)
        assert not (tmp_path / "base").exists()
        assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 30_000
        assert Policy.from_pretrained(tmp_path, device="cpu").pretrained

    @pytest.mark.parametrize("critic", ["shared", "separate"])
    def test_training_moves_adapters_and_goes_on_from_a_checkpoint(self, critic, tmp_path):
        def agent():
            return PPO(
                "tiny", "TextGen-v0", device="cpu", seed=1, env_kwargs={"max_new_tokens": 6}, num_envs=8,
                episodes_per_update=8, learning_rate=0.01, policy_kwargs={"lora": 4}, critic=critic,
            )  # fmt: skip

        straight, stopped, rows_seen = agent(), agent(), []
        base = straight.policy.model.model.embed_tokens.weight.clone()
        straight.learn(150, on_update=rows_seen.append)
        assert abs(rows_seen[0]["kl"]) < 1e-4
        assert rows_seen[0]["ratio_mean"] == pytest.approx(1, abs=0.2)
        assert abs(rows_seen[-1]["kl"]) > 1e-3
        assert torch.equal(straight.policy.model.model.embed_tokens.weight, base)
        stopped.learn(50, folder=tmp_path)
        assert not list(tmp_path.rglob("reference"))
        resumed = load(tmp_path, device="cpu")
        for (name, one), other in zip(stopped.policy.named_parameters(), resumed.policy.parameters(), strict=True):
            assert torch.equal(one, other), name
        resumed.learn(150)
        for (name, one), other in zip(straight.policy.named_parameters(), resumed.policy.parameters(), strict=True):
            assert torch.equal(one, other), name

    def test_what_cannot_be_adapted_says_so(self):
        with pytest.raises(ValueError, match="linear layers"):
            make("lstm", lora=4)
        with pytest.raises(ValueError, match="rank"):
            make("llama", lora=0)
        with pytest.raises(TypeError, match="Did you mean 'lora_alpha'"):
            make("llama", lora={"lora_alfa": 4})
        with pytest.raises(ValueError, match="head"):
            make("llama", lora={"target_modules": ["lm_head"]})
        with pytest.raises(ValueError, match="without adapters"):
            make("llama", lora=4).adapt(lora=4)


def test_without_peft_the_error_says_what_to_install():
    code = """
import sys
sys.modules["peft"] = None
from agents import Policy
Policy.from_pretrained("tiny", device="cpu").adapt(lora=4)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'ImportError: peft is needed for LoRA. Install it with: pip install "textenvs[agents,lora]"' in result.stderr
