"""Policies: the log-probs that were recorded are the ones that are trained on."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents import Policy
from agents.policy.context import FullContext
from agents.policy.decoder_only import CachedContext
from tests.agents.helpers import ARCHITECTURES, make_policy


def random_rows(seed, lanes=5, length=40):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 10, (lanes, length))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_lane_cache_equals_full_forward(kind):
    """Lanes of different lengths, grown by one or by several tokens, idle, reset and dropped."""
    policy = make_policy(kind)
    rows = random_rows(0)
    cached, full = CachedContext(policy.trunk, 5), FullContext(policy.trunk, 5)
    schedule = [
        np.array([3, 1, 7, 2, 5]),  # prompts of different lengths
        np.array([4, 2, 8, 3, 6]),  # one token each
        np.array([5, 3, 8, 4, 7]),  # lane 2 idles
        np.array([6, 9, 8, 5, 8]),  # lane 1 gets six at once
        np.array([7, 10, 9, 6, 9]),
    ]
    before = np.zeros(5, dtype=int)
    for lengths in schedule:
        moved = lengths > before
        expected, got = full.extend(rows, lengths), cached.extend(rows, lengths)
        torch.testing.assert_close(got[moved], expected[moved], atol=1e-5, rtol=1e-5)
        before = lengths
    # Lane 3 starts a new text, and the others go on.
    rows[3] = random_rows(1)[3]
    for context in (cached, full):
        context.reset(np.array([3]))
    lengths = np.array([8, 11, 10, 2, 10])
    torch.testing.assert_close(cached.extend(rows, lengths), full.extend(rows, lengths), atol=1e-5, rtol=1e-5)
    # Only lanes 4 and 1 stay, in that order; the cache grows past its first bucket.
    for context in (cached, full):
        context.keep(np.array([4, 1]))
    rows = np.concatenate([rows, random_rows(2, length=60)], axis=1)[[4, 1]]
    for lengths in (np.array([11, 12]), np.array([70, 13]), np.array([71, 14]), np.array([72, 80])):
        torch.testing.assert_close(cached.extend(rows, lengths), full.extend(rows, lengths), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_evaluate_agrees_with_plain_transformers(kind):
    """Against a plain forward pass of each unpadded row, with log_softmax and gather."""
    policy = make_policy(kind)
    rows = torch.from_numpy(random_rows(3))
    positions = torch.tensor([[4, 5, 6], [2, 3, 1], [7, 8, 9], [1, 1, 1], [1, 2, 3]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    got = policy.evaluate(rows, positions, mask, temperature=0.7)
    for row in range(5):
        for step in range(3):
            if not mask[row, step]:
                assert got.log_probs[row, step] == got.entropies[row, step] == got.values[row, step] == 0
                continue
            place = int(positions[row, step])
            output = policy.model(rows[row : row + 1, :place], output_hidden_states=True)
            log_probs = torch.log_softmax(output.logits[0, -1] / 0.7, dim=-1)
            torch.testing.assert_close(got.log_probs[row, step], log_probs[rows[row, place]], atol=1e-5, rtol=1e-5)
            entropy = -(log_probs.exp() * log_probs).sum()
            torch.testing.assert_close(got.entropies[row, step], entropy, atol=1e-5, rtol=1e-5)
            value = policy.value_head(output.hidden_states[-1][0, -1])[0]
            torch.testing.assert_close(got.values[row, step], value, atol=1e-5, rtol=1e-5)


def test_padding_and_neighbours_change_nothing():
    policy = make_policy()
    rows = torch.from_numpy(random_rows(4))
    positions, mask = torch.tensor([[3, 4]] * 5), torch.ones(5, 2, dtype=torch.bool)
    whole = policy.evaluate(rows, positions, mask)
    changed = rows.clone()
    changed[:, 5:] = 2
    after = policy.evaluate(changed[:, :8], positions, mask)
    torch.testing.assert_close(after.log_probs, whole.log_probs, atol=1e-6, rtol=1e-6)
    alone = policy.evaluate(rows[2:3], positions[2:3], mask[2:3])
    torch.testing.assert_close(alone.log_probs[0], whole.log_probs[2], atol=1e-6, rtol=1e-6)


def test_act_samples_what_it_says():
    """Frequencies of a hundred thousand draws against the softmax, and the recorded log-probs against it too."""
    policy = make_policy(seed=3)
    hidden = FullContext(policy.trunk, 1).extend(random_rows(5, lanes=1), np.array([6])).repeat(100_000, 1)
    step = policy.act(hidden, temperature=1.3, generator=torch.Generator().manual_seed(0))
    expected = torch.softmax(policy.model.lm_head(hidden[0]) / 1.3, dim=-1).detach()
    frequencies = torch.bincount(step.actions, minlength=10) / 100_000
    spread = (expected * (1 - expected) / 100_000).sqrt()
    assert ((frequencies - expected).abs() < 4.5 * spread + 1e-9).all()
    torch.testing.assert_close(step.log_probs.exp(), expected[step.actions], atol=1e-6, rtol=1e-5)


def test_logits_beyond_the_tokenizer_are_never_sampled():
    """A model with more logits than its tokenizer has tokens (padded to a multiple of 64, say)."""
    import transformers

    from tests.agents.helpers import word_tokenizer

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    policy = Policy(transformers.LlamaForCausalLM(config), word_tokenizer())
    hidden = torch.randn(5000, 16)
    step = policy.act(hidden, generator=torch.Generator().manual_seed(0))
    assert int(step.actions.max()) < 10
    expected = torch.log_softmax(policy.model.lm_head(hidden)[:, :10], dim=-1).gather(1, step.actions[:, None])[:, 0]
    torch.testing.assert_close(step.log_probs, expected.detach(), atol=1e-5, rtol=1e-5)
    rows = torch.tensor([[1, 3, 4]])
    got = policy.evaluate(rows, torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool))
    logits = policy.model(rows).logits[0, :2, :10]
    plain = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor([[3], [4]]))[:, 0]
    torch.testing.assert_close(got.log_probs[0], plain, atol=1e-5, rtol=1e-5)


def test_deterministic_takes_the_likeliest(policy):
    hidden = torch.randn(20, 32)
    step = policy.act(hidden, deterministic=True)
    assert torch.equal(step.actions, policy.model.lm_head(hidden).argmax(dim=-1))
    assert not step.log_probs.any(), "of the policy that takes them, which takes no others"


def test_dropout_is_off_everywhere():
    policy = make_policy("gpt2")
    policy.train()
    assert not any(module.training for module in policy.modules())
    rows, positions, mask = torch.from_numpy(random_rows(6)), torch.tensor([[3, 4]] * 5), torch.ones(5, 2).bool()
    first, second = policy.evaluate(rows, positions, mask), policy.evaluate(rows, positions, mask)
    assert torch.equal(first.log_probs, second.log_probs)


def test_saved_folder_loads_in_plain_transformers(tmp_path):
    policy = Policy.from_pretrained("tiny", device="cpu")
    torch.nn.init.normal_(policy.value_head.weight)
    policy.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    torch.testing.assert_close(model(ids).logits, policy.model(ids).logits)
    again = Policy.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(again.value_head.weight, policy.value_head.weight)
    assert again.tokenizer.pieces == policy.tokenizer.pieces


def test_a_tokenizer_object_is_saved_with_its_special_tokens(tmp_path):
    """An EOS of any name, from a plain tokenizers.Tokenizer."""
    from tests.agents.helpers import tiny_config, word_tokenizer
    from textenvs.tokenizer import SubwordTokenizer

    model = AutoModelForCausalLM.from_config(tiny_config("llama"))
    policy = Policy(model, SubwordTokenizer(word_tokenizer(), eos_token=" c", bos_token="<bos>", pad_token="<pad>"))
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path, device="cpu").tokenizer
    assert (again.eos_token_id, again.bos_token_id, again.pad_token_id) == (5, 1, 2)


@pytest.mark.parametrize("name", ["no/such/folder/anywhere", "./nothing", "/nowhere"])
def test_unknown_model_paths_say_so(name):
    with pytest.raises(ValueError, match="Expected a bundled model"):
        Policy.from_pretrained(name)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        Policy.from_pretrained(tmp_path)


def test_a_pickled_model_is_refused(tmp_path):
    policy = Policy.from_pretrained("tiny", device="cpu")
    policy.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(policy.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        Policy.from_pretrained(tmp_path)


def test_unknown_device_says_so():
    with pytest.raises(ValueError, match="Expected a device"):
        Policy.from_pretrained("tiny", device="abacus")


def test_a_text_longer_than_the_context_is_refused(policy):
    with pytest.raises(ValueError, match="context of 128 tokens"):
        policy.context(4, 200)


def test_nonsense_in_place_of_a_model_or_a_seed():
    with pytest.raises(TypeError, match="Expected a model of Transformers, got list"):
        Policy([], "stories")
    with pytest.raises(TypeError, match="Expected the name of a model, or its folder, got None"):
        Policy.from_pretrained(None)
    for seed in (float("inf"), True, 0.5):
        with pytest.raises(TypeError, match="Expected seed to be a whole number"):
            Policy.fresh("stories", seed=seed)
    with pytest.raises(ValueError, match="Expected seed to be from 0 to"):
        Policy.fresh("stories", seed=-1)
