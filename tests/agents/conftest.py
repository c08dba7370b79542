"""Small random models over a small vocabulary, for tests that need no language."""

from collections.abc import Iterator

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from agents import Algorithm, Policy

WORDS = ["<eos>", "<bos>", "<pad>", " a", " b", " c", " good", " bad", ".", " é"]


def word_tokenizer() -> Tokenizer:
    """Ten tokens, each a word with its space."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>", "<bos>", "<pad>"])
    return tokenizer


SHAPES = {"vocab_size": 10, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2}


def tiny_config(kind: str) -> transformers.PreTrainedConfig:
    """A config of one of the architectures that the lane cache must be exact for."""
    llama = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    grouped = {**SHAPES, "num_key_value_heads": 2, "max_position_embeddings": 128}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**llama, **grouped),
        "qwen2": lambda: transformers.Qwen2Config(**llama, **grouped),
        "gpt2": lambda: transformers.GPT2Config(**SHAPES, n_embd=32, n_layer=2, n_head=4, n_positions=128),
        "opt": lambda: transformers.OPTConfig(
            **SHAPES, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, word_embed_proj_dim=32,
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**llama, **SHAPES, max_position_embeddings=128),
    }  # fmt: skip
    return configs[kind]()


ARCHITECTURES = ("llama", "qwen2", "gpt2", "opt", "gpt_neox")


def make_policy(kind: str = "llama", seed: int = 0, spread: float = 0.4) -> Policy:
    """A policy with random weights, spread out enough that its distributions differ from state to state."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(kind))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.normal_(0.0, spread)
    policy = Policy(model, word_tokenizer())
    torch.nn.init.normal_(policy.value_head.weight, std=0.3)
    return policy


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As many threads as `benchmarks.faults.play` takes: with another number, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def policy() -> Policy:
    """A random Llama over ten words."""
    return make_policy()


@pytest.fixture
def own_algorithms() -> Iterator[None]:
    """Algorithms that the test makes are forgotten after it, and their names are free again."""
    before = dict(Algorithm.known)
    yield
    Algorithm.known.clear()
    Algorithm.known.update(before)
