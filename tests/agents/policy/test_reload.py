"""What a policy writes is read back as the same policy, or refused before anything is spent on it."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from agents import PPO, Policy, load
from agents.policy.checks import length_limit, thresholds
from agents.policy.pretrained import BUNDLED_MODELS
from textenvs.tokenizer import SubwordTokenizer, make_tokenizer

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
QWEN2 = {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2}
PHI3 = {
    "model_type": "phi3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": None,
    "max_position_embeddings": 128,
    "original_max_position_embeddings": 32,
    "initializer_range": 0.25,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.2, 1.4, 1.6],
        "long_factor": [4.0, 5.0, 6.0, 7.0],
    },
}
SMALL = {"env_kwargs": {"max_new_tokens": 4}, "num_envs": 2, "episodes_per_update": 2}


def _byte_level(text, size=330, special=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator([text] * 9, trainer)
    return tokenizer


# Tokenizers -----------------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_read_from_its_file_and_not_made_again_by_the_model_type(tmp_path):
    own = _byte_level("born in 1999 and in 2024, the cat's hat, 1234 5678", 400, ["<|endoftext|>"])
    policy = Policy.from_config(QWEN2, own, device="cpu")
    policy.save_pretrained(tmp_path / "once")
    Policy.from_pretrained(tmp_path / "once", device="cpu").save_pretrained(tmp_path / "twice")
    again = Policy.from_pretrained(tmp_path / "twice", device="cpu")
    texts = ["in 2024 the cat's hat", "<|endoftext|> 19"]
    assert again.tokenizer.encode_batch(texts) == policy.tokenizer.encode_batch(texts)
    assert again.tokenizer.pieces == policy.tokenizer.pieces


def test_a_run_of_a_type_whose_tokenizer_class_has_rules_of_its_own(tmp_path):
    PPO(QWEN2, "TextGen-v0", device="cpu", **SMALL).learn(8, folder=tmp_path)
    assert load(tmp_path).timesteps >= 8


def test_eos_may_be_an_ordinary_token(tmp_path):
    inner = _byte_level("well... the end. 3.14 e.g. this\n\n")
    policy = Policy.from_config(LLAMA, SubwordTokenizer(inner, eos_token="."), device="cpu")
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path, device="cpu").tokenizer
    assert again.pieces[again.eos_token_id] == b"."
    assert again.encode_batch(["well... 3.14 e.g."]) == policy.tokenizer.encode_batch(["well... 3.14 e.g."])


def test_a_tokenizer_that_reads_special_tokens_as_text(tmp_path):
    inner = _byte_level("a few words", 290, ["<eos>"])
    inner.encode_special_tokens = True
    policy = Policy.from_config(LLAMA, inner, device="cpu")
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path, device="cpu")
    assert again.tokenizer.encode_batch(["a<eos>"]) == policy.tokenizer.encode_batch(["a<eos>"])
    assert make_tokenizer(tmp_path).encode_batch(["a<eos>"]) == policy.tokenizer.encode_batch(["a<eos>"])
    assert policy.tokenizer.eos_token_id not in again.tokenizer.encode_batch(["a<eos>"])[0]


def test_a_chat_template_goes_into_checkpoints(tmp_path):
    chat = PreTrainedTokenizerFast(tokenizer_object=_byte_level("a few words", 290, ["<end>"]), eos_token="<end>")
    chat.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>\r\n{% endfor %}[assistant]"
    chat.save_pretrained(tmp_path / "tokenizer")
    policy = Policy.from_config(LLAMA, str(tmp_path / "tokenizer"), device="cpu")
    settings = {**SMALL, "env_kwargs": {"chat_template": True, "max_new_tokens": 4}}
    PPO(policy, "TextGen-v0", **settings).learn(8, folder=tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.policy.tokenizer.chat_template == policy.tokenizer.chat_template
    again.policy.tokenizer.encode_chat([{"role": "user", "content": "a"}])


class Letters:
    vocab_size, bos_token_id, eos_token_id, pad_token_id = 5, 0, 0, 0
    pieces = (b"", b"a", b"b", b"c", b" ")

    def encode_batch(self, texts):
        return [[0] + [1 + ord(letter) % 4 for letter in text] for text in texts]


def test_a_tokenizer_that_cannot_be_written_is_refused_before_the_first_update(tmp_path):
    agent = PPO(Policy.from_config(LLAMA, Letters(), device="cpu"), "TextGen-v0", **SMALL)
    with pytest.raises(ValueError, match="Letters"):
        agent.learn(200, folder=tmp_path / "run")
    assert agent.timesteps == 0
    agent.learn(8)  # without a folder it is welcome


# What the comparison finds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["weights", "config", "tokenizer", "value_head"])
def test_what_is_not_read_back_is_said_before_tokens_are_spent(tmp_path, monkeypatch, damage):
    from agents.policy import pretrained

    save = pretrained.save

    def save_something_else(policy, folder, **kwargs):
        weights = save(policy, folder, **kwargs)
        file = folder / {"config": "config.json", "tokenizer": "tokenizer_config.json"}.get(damage, "model.safetensors")
        if damage == "config":
            file.write_text(json.dumps({**json.loads(file.read_text()), "rms_norm_eps": 10.0}))
        elif damage == "tokenizer":
            file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": "."}))
        else:
            file = folder / f"{'model' if damage == 'weights' else damage}.safetensors"
            tensors = {name: tensor + 1 for name, tensor in load_file(file).items()}
            save_file(tensors, file, metadata={"format": "pt"})
        return weights

    monkeypatch.setattr(pretrained, "save", save_something_else)
    agent = PPO(Policy.from_pretrained("tiny", device="cpu"), "TextGen-v0", **SMALL)
    with pytest.raises(ValueError, match="read back"):
        agent.learn(200, folder=tmp_path / "run")
    assert agent.timesteps == 0
    assert not any((tmp_path / "run" / "checkpoints").iterdir())


def test_files_that_the_policy_does_not_name_are_not_read(tmp_path):
    critic = Policy.from_pretrained("tiny", device="cpu")
    critic.separate_critic()
    critic.save_pretrained(tmp_path / "critic")
    Policy.from_pretrained("tiny", device="cpu").save_pretrained(tmp_path / "plain")
    shutil.copy(tmp_path / "critic" / "critic.safetensors", tmp_path / "plain")
    (tmp_path / "plain" / "adapters").mkdir()
    (tmp_path / "plain" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.bin"}}')
    again = Policy.from_pretrained(tmp_path / "plain", device="cpu")
    assert again.critic is None
    assert not again.has_adapters


# Adapters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [{"modules_to_save": ["input_layernorm"]}, {"bias": "all"}])
def test_adapters_that_train_the_base_too_are_refused(setting):
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match=next(iter(setting))):
        Policy.from_pretrained("tiny", device="cpu").adapt(lora={"r": 2, **setting})


def test_adapters_that_change_the_base_are_not_written_without_it(tmp_path):
    pytest.importorskip("peft")
    policy = Policy.from_pretrained("tiny", device="cpu")
    with torch.no_grad():
        policy.model.model.layers[0].mlp.up_proj.weight.mul_(2)  # trained, before it got adapters
    policy.adapt(lora=2)
    with pytest.raises(ValueError, match="other values in model"):
        policy.save_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own
def test_adapters_are_loaded_by_peft_without_being_told_the_task(tmp_path):
    peft = pytest.importorskip("peft")
    policy = Policy.from_pretrained("tiny", device="cpu").adapt(lora=2)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.1)
    policy.save_pretrained(tmp_path)
    plain = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapters")
    tokens = torch.arange(4)[None]
    torch.testing.assert_close(plain(tokens).logits, policy.model(tokens).logits, atol=1e-5, rtol=1e-5)


def test_adapters_with_weights_missing(tmp_path):
    pytest.importorskip("peft")
    Policy.from_pretrained("tiny", device="cpu").adapt(lora=2).save_pretrained(tmp_path)
    file = tmp_path / "adapters" / "adapter_model.safetensors"
    weights = load_file(file)
    gone = sorted(weights)[0]
    save_file({name: tensor for name, tensor in weights.items() if name != gone}, file)
    with pytest.raises(ValueError, match="adapter"):
        Policy.from_pretrained(tmp_path, device="cpu")


def test_a_resumed_run_with_adapters_still_names_its_base(tmp_path):
    pytest.importorskip("peft")
    PPO("tiny", "TextGen-v0", device="cpu", policy_kwargs={"lora": 2}, **SMALL).learn(8, folder=tmp_path)
    agent = load(tmp_path)
    agent.learn(agent.timesteps + 8, folder=tmp_path)
    last = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert json.loads((last / "policy" / "policy.json").read_text())["base"] == "tiny"
    assert not (last / "policy" / "base").exists()


def _learned_on(run):
    agent = load(run, device="cpu")
    return agent.learn(agent.timesteps + 8, folder=run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bundled", "folder"])
def test_checkpoints_of_a_run_that_was_resumed_twice_and_moved_are_as_small_as_the_first(tmp_path, kind):
    pytest.importorskip("peft")
    run, model = tmp_path / "here" / "run", tmp_path / "here" / "model"
    Policy.from_pretrained("tiny", device="cpu").save_pretrained(model)
    source = "tiny" if kind == "bundled" else model
    agent = PPO(source, "TextGen-v0", device="cpu", policy_kwargs={"lora": 2}, **SMALL).learn(8, folder=run)
    sizes = [_size(run)]
    for _ in range(2):
        agent = _learned_on(run)
        sizes.append(_size(run))
    shutil.move(tmp_path / "here", tmp_path / "there")  # the run, and its model with it
    moved = tmp_path / "there" / "run"
    again = load(moved, device="cpu")
    for one, other in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    _learned_on(moved)
    assert max(*sizes, _size(moved)) < 1.02 * sizes[0]
    last = load(moved, device="cpu").policy
    assert last.source == ("tiny" if kind == "bundled" else str(tmp_path / "there" / "model"))
    shutil.move(moved, tmp_path / "run")  # alone: the model is where it was
    assert load(tmp_path / "run", device="cpu").policy.source == last.source
    if kind == "folder":
        shutil.rmtree(tmp_path / "there" / "model")
        with pytest.raises(ValueError, match=r"Expected the model under the adapters of .* nothing there: put it"):
            load(tmp_path / "run", device="cpu")


def _size(run):
    last = sorted(path for path in (run / "checkpoints").iterdir() if path.name.isdecimal())[-1]
    return sum(file.stat().st_size for file in last.rglob("*") if file.is_file())


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(BUNDLED_MODELS["tiny"], tmp_path / "model")
    return tmp_path / "model"


def _change(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    changed = {name: config[name] + change for name, change in settings.items()}
    (folder / "config.json").write_text(json.dumps({**config, **changed}))


def test_weights_under_other_names(folder):
    weights = {f"inner.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: .*model\.embed_tokens\.weight"):
        Policy.from_pretrained(folder, device="cpu")


def test_no_weights_at_all(folder):
    save_file({}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: .* more"):
        Policy.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(("change", "named"), [(1, r"missing: model\.layers\.\d"), (-1, r"no place for .*layers\.\d")])
def test_more_and_fewer_layers_than_the_config_has(folder, change, named):
    _change(folder, num_hidden_layers=change)
    with pytest.raises(ValueError, match=named):
        Policy.from_pretrained(folder, device="cpu")


def test_weights_of_another_shape(folder):
    _change(folder, vocab_size=8)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight \(1024, 128\) \(not \(1032, 128\)\)"):
        Policy.from_pretrained(folder, device="cpu")


def test_a_reward_model_is_no_policy(tmp_path):
    config = LlamaConfig(
        vocab_size=1024, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(BUNDLED_MODELS["tiny"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"missing: lm_head\.weight"):
        Policy.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["shard.bin", "../outside.safetensors", "/outside.safetensors", "none.safetensors"])
def test_an_index_names_safetensors_inside_the_folder_alone(folder, name):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "shard.bin")
    save_file(weights, folder.parent / "outside.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="inside the folder alone"):
        Policy.from_pretrained(folder, device="cpu")


def test_a_model_in_several_files(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in set(files.values()):
        part = {name: tensor for name, tensor in weights.items() if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    policy = Policy.from_pretrained(folder, device="cpu")
    assert all(torch.equal(policy.model.state_dict()[name], tensor) for name, tensor in weights.items())


def test_adapters_of_peft_beside_a_model(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="peft's adapters"):
        Policy.from_pretrained(folder, device="cpu")


def test_two_threads_load_at_once(monkeypatch):
    from agents.policy import pretrained

    errors, inside, read = [], [], pretrained.read_model

    def read_alone(*args, **kwargs):
        inside.append(1)
        time.sleep(0.05)  # long enough for the other thread to come in
        model = read(*args, **kwargs)
        assert len(inside) == 1
        inside.clear()
        return model

    monkeypatch.setattr(pretrained, "read_model", read_alone)

    def load_twice():
        try:
            for _ in range(2):
                Policy.from_pretrained("tiny", device="cpu")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=load_twice) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Policy.from_pretrained("tiny", device="cpu")  # the process is as it was
    assert errors == []


# Models that are not supported ----------------------------------------------------------------------------------------


def test_models_that_do_not_work_as_policies():
    bert = BertConfig(vocab_size=1024, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    both = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert))
    both.config.decoder_start_token_id = 0
    with pytest.raises(ValueError, match=r"EncoderDecoderModel.*not supported"):
        Policy(both, "stories")
    with pytest.raises(ValueError, match="LlamaConfig"):
        Policy.from_config({**LLAMA, "num_attention_heads": 0}, "stories", device="cpu")


# Positions ------------------------------------------------------------------------------------------------------------


def test_texts_that_would_be_rotated_otherwise_as_they_grow_are_refused():
    policy = Policy.from_config(PHI3, "stories", device="cpu")
    assert policy.longest_text == 32
    tokens = np.arange(2 * 40).reshape(2, 40)
    with pytest.raises(ValueError, match="at most 32 tokens, got 33"):
        policy.context(2, 33)
    ends = torch.tensor([33, 20])
    with pytest.raises(ValueError, match="at most 32 tokens, got 33"):
        policy.row_states(torch.from_numpy(tokens), torch.tensor([2, 2]), ends)
    with pytest.raises(ValueError, match="at most 32 tokens, got 33"):
        policy.frozen_copy().context(2, 33)
    context = policy.context(2, 32)
    context.extend(tokens, np.array([30, 20]))
    last = context.extend(tokens, np.array([32, 21]))
    whole = policy.row_states(torch.from_numpy(tokens[:, :32]), torch.tensor([2, 2]), torch.tensor([32, 21]))
    torch.testing.assert_close(last, whole[[0, 1], [31, 20]], atol=1e-5, rtol=1e-5)


def test_a_length_at_which_states_change_is_found_by_trying(monkeypatch):
    from agents.policy import checks

    monkeypatch.setattr(checks, "_ROTATIONS_BY_LENGTH", ())
    policy = Policy.from_config(PHI3, "stories", device="cpu")
    assert thresholds(policy.model.config) == [32]
    assert policy.longest_text == 32


def test_scaling_that_does_not_depend_on_length_has_no_limit():
    rope = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    policy = Policy.from_config(
        {**LLAMA, "max_position_embeddings": 128, "initializer_range": 0.25, "rope_parameters": rope},
        "stories",
        device="cpu",
    )
    assert length_limit(policy.trunk, policy.tokenizer.vocab_size) == float("inf")
    assert policy.uses_cache


def test_the_cache_is_tried_on_both_sides_of_a_threshold(monkeypatch):
    from agents.policy.decoder_only import CachedContext

    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
    config = {**LLAMA, "max_position_embeddings": 128, "initializer_range": 0.25, "rope_parameters": rope}
    run = CachedContext._run

    def wrong_from_32_on(self, tokens, mask, positions, lanes):
        return run(self, tokens, mask, positions, lanes) + (positions >= 32)[..., None]

    monkeypatch.setattr(CachedContext, "_run", wrong_from_32_on)
    monkeypatch.setattr(Policy, "_decode_mode", lambda self: None)
    assert not Policy.from_config(config, "stories", device="cpu").uses_cache


def test_observations_padded_on_the_left_are_refused():
    policy = Policy.from_pretrained("tiny", device="cpu")
    ids = np.array([[5, 6, 7, 0], [5, 6, 0, 0]])
    observation = {"input_ids": ids, "attention_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]])}
    observation["response_mask"] = np.zeros_like(ids)
    policy.predict(observation)
    for row in ([0, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]):
        observation["attention_mask"][1] = row
        with pytest.raises(ValueError, match="right-padded"):
            policy.predict(observation)


def test_a_folder_of_an_earlier_version_is_refused_and_does_not_lose_its_critic(tmp_path):
    """Before policy.json named the parts, whatever lay beside it was read; now it would come back without them."""
    policy = Policy.from_pretrained("tiny", device="cpu")
    policy.separate_critic()
    policy.save_pretrained(tmp_path)
    file = tmp_path / "policy.json"
    notes = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in notes.items() if name not in ("critic", "sharded")}))
    with pytest.raises(ValueError, match="got one without critic, sharded: an earlier version wrote it"):
        Policy.from_pretrained(tmp_path, device="cpu")
