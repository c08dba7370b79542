"""Small random models over a vocabulary of ten words, small environments for them, and other parts that tests share."""

import json
import math
from dataclasses import replace

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from agents import PPO, REINFORCE, ActorCritic, Policy, collect
from agents.rollout import reference_log_probs
from agents.supervised.reward_model import Pair
from agents.training import checkpoints
from textenvs import Example, Task, TextGenVectorEnv

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


class Letters(Task):
    """Prompts of one to three letters."""

    name = "letters"
    default_reward = "length"

    def num_examples(self, split):
        return 6

    def example(self, split, index):
        words = [" a", " b", " c"]
        return Example("".join(words[(index + place) % 3] for place in range(index % 3 + 1)), metadata={"index": index})


def count_good(example, response):
    """A score that most words change, and "good" most of all."""
    return response.count("good") - 0.25 * response.count("bad") + 0.01 * len(response)


def lanes(num_envs=4, payout="immediate", **kwargs):
    """The vector environment that `collect` wants."""
    settings = {"task": Letters(), "reward": count_good, "tokenizer": word_tokenizer(), "max_new_tokens": 6}
    settings.update(kwargs)
    return TextGenVectorEnv(num_envs, payout=payout, autoreset_mode="Disabled", copy=False, **settings)


ALGORITHMS = {"ppo": PPO, "actor_critic": ActorCritic, "reinforce": REINFORCE}


def share_of_good(example, response):
    """1 where every word is "good"."""
    words = response.split()
    return sum(word == "good" for word in words) / max(len(words), 4)


def environment(num_envs=32, payout="immediate", **kwargs):
    """Lanes that a random model learns in within seconds."""
    return lanes(num_envs, payout, reward=share_of_good, max_new_tokens=4, **kwargs)


def fresh_rollout(policy, num_episodes=24, payout="immediate", kl=True):
    """Episodes of the policy, with another model's log-probs as the reference where `kl` is set."""
    rollout = collect(lanes(payout=payout), policy, num_episodes, seed=0, generator=torch.Generator().manual_seed(0))
    other = make_policy(seed=9) if kl else policy
    return replace(rollout, ref_log_probs=reference_log_probs(other, rollout, temperature=1.0))


def of_each(name, rollout):
    """Settings that make one batch one optimiser step."""
    return {"minibatch_size": len(rollout)} if name == "ppo" else {}


def gradient(algorithm, rollout, **settings):
    """The gradients of one update, caught before the first optimiser step of plain SGD."""
    policy = make_policy(seed=1)
    config = algorithm.config(max_grad_norm=1e9, **settings)
    caught = []

    class Catch(torch.optim.SGD):
        def step(self, closure=None):
            if not caught:
                caught.append([one.grad.clone() for one in policy.parameters() if one.grad is not None])

    algorithm.update(policy, Catch(policy.parameters(), lr=0.0), rollout, config, torch.Generator().manual_seed(0))
    return caught[0]


def assert_same_gradient(one, two, tolerance=1e-6):
    """Compares parameter by parameter, up to `tolerance` times the largest entry."""
    scale = max(float(gradient.abs().max()) for gradient in one)
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(first, second, atol=tolerance * max(scale, 1.0), rtol=1e-4)


def biased_head(policy, biases):
    """The policy's head with something added to some logits."""
    head = torch.nn.Linear(32, 10)
    with torch.no_grad():
        head.weight.copy_(policy.model.lm_head.weight)
        head.bias.zero_()
        for token, bias in biases.items():
            head.bias[token] = bias
    return head


def change(checkpoint, **values):
    """Changes agent.json, and the manifest with it: what is written on purpose is no damage."""
    file = checkpoint / "agent.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    manifest = checkpoint / checkpoints.MANIFEST
    content = json.loads(manifest.read_text())
    content["files"]["agent.json"] = checkpoints.fingerprint(file)
    manifest.write_text(json.dumps(content))


class Echo(Letters):
    """The answer to a letter or more is "good" and the letters again."""

    name = "echo"

    def demonstration(self, example):
        return " good" + example.prompt


ECHO_KWARGS = {"task": Echo(), "reward": count_good, "max_new_tokens": 6}

PAIR_WORDS = (" a", " b", " c", " good", " bad", " é")


def utility(example, response):
    """The score behind the labels, which no model is told: good words count, and bad ones count against it."""
    return 1.5 * (response.count("good") - response.count("bad"))


def noisy_pairs(count, seed=0, words=6):
    """Random texts, labelled with the noise of Bradley and Terry's model."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        prompt = "".join(rng.choice(PAIR_WORDS, 2))
        one, two = ("".join(rng.choice(PAIR_WORDS, words)) for _ in range(2))
        first = rng.random() < 1 / (1 + math.exp(utility(None, two) - utility(None, one)))
        pairs.append(Pair(prompt, *((one, two) if first else (two, one))))
    return pairs


def small_agent(**settings):
    """PPO on the bundled model, with few lanes and short responses."""
    settings = {"num_envs": 8, "episodes_per_update": 8, **settings}
    return PPO(Policy.from_pretrained("tiny", device="cpu"), "TextGen-v0", env_kwargs={"max_new_tokens": 6}, **settings)


class Again:
    """Replays a recorded step by calling it again.

    Like a CUDA graph, it reads what the buffers hold by then, and writes into the same outputs.
    """

    def __init__(self, function, beside):
        self.function, self.beside, self.replays = function, beside, 0
        function()
        self.outputs = tuple(one.clone().zero_() for one in function())  # a graph has run nothing when it is recorded

    def replay(self):
        self.replays += 1
        for kept, new in zip(self.outputs, self.function(), strict=True):
            kept.copy_(new)


def edit(file, **values):
    """Changes entries of a JSON file, which is made if there is none."""
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **values}))
