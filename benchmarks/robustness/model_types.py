"""Tries every type of language model that Transformers offers: it works as a policy, or is refused in a sentence.

Each type gets a config of its own with all sizes small, and random weights that are large enough for a distribution to
depend on the text. Then:

1. The log-probs that a rollout recorded, those of `Policy.evaluate`, and those of the model as Transformers has it, on
   unpadded texts that end before each action, are the same. Once with texts that fit into a sliding window of 20
   tokens, once with longer ones.
2. One update of PPO is finite, and changes weights.
3. The folder that the policy is saved to gives the same weights and token ids back, bit for bit, and log-probs that
   are the same up to rounding.

    python -m benchmarks models
"""

from __future__ import annotations

import logging
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import tyro
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from agents import PPO, Policy, collect
from agents.collector import make_env
from agents.policy.context import FullContext
from agents.policy.reload import tokenizer_difference
from agents.rollout import Rollout
from benchmarks.records import RESULTS, command_line, heading, machine, table, write

MODEL_TYPES: tuple[str, ...] = tuple(
    dict.fromkeys([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES])
)
"""The names of all types that Transformers makes causal models or encoder-decoders of."""

MOST_PARAMETERS = 2_000_000
MOST_SECONDS = 60
TOLERANCE = 1e-4  # nats: float32 sums over tens of terms, in another order
_ROUNDING = 1e-5  # nats: the same weights at other places in memory may be multiplied by other kernels

_WINDOW = 20  # tokens that a layer with a sliding window looks back at
_SIZES: dict[int, str] = {
    1: (
        "first_k_dense_replace num_expert_group n_group topk_group n_groups mamba_n_groups "
        "num_nextn_predict_layers n_shared_experts num_shared_experts moe_num_shared_experts"
    ),
    2: (
        "num_blocks depth num_key_value_heads num_kv_heads num_experts_per_tok num_experts_per_token moe_topk "
        "moe_k top_k_experts"
    ),
    4: (
        "num_attention_heads n_head n_heads num_heads attention_heads encoder_attention_heads "
        "decoder_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts "
        "linear_num_key_heads linear_num_value_heads linear_num_heads index_n_heads"
    ),
    8: (
        "head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim d_kv kv_channels linear_key_head_dim "
        "linear_value_head_dim rotary_dim attention_head_dim mamba_d_head mamba_head_dim mamba_headdim "
        "mamba_n_heads mamba_num_heads n_mamba_heads linear_head_dim hidden_size_per_layer_input chunk_size "
        "mamba_chunk_size dim_head"
    ),
    16: (
        "kv_lora_rank q_lora_rank o_lora_rank state_size mamba_d_state ssm_state_size time_step_rank "
        "index_head_dim mamba_dt_rank conv_dim"
    ),
    _WINDOW: "sliding_window window_size attention_chunk_size",
    32: "hidden_size n_embd d_model embedding_size embedding_dim word_embed_proj_dim emb_dim embed_dim",
    48: (
        "intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim ffn_hidden_size "
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size hidden_dim "
        "shared_experts_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size dim_ff"
    ),
    64: "attention_hidden_size mamba_d_ssm adapter_rank laurel_rank",
    1024: "vocab_size_per_layer_input ngram_vocab_size_base encoder_hash_byte_group_vocab",
    128: "max_position_embeddings n_positions n_ctx max_seq_len",
}  # fmt: skip
"""Size to the settings that are cut to it, under all the names that configs have for them."""

_LAYERS = {
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers",
}  # fmt: skip
_KINDS = ("layer_types", "layers_block_type")  # settings that list the kind of each layer

_SIZE_OF = {name: size for size, names in _SIZES.items() for name in names.split()}

_INKLING = {
    "sliding_window_size": _WINDOW, "swa_head_dim": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
    "rel_extent": 64,
}  # fmt: skip

OVERRIDES: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 8},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "minicpm3": {"dim_model_base": 32},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"head_dim": 16, "per_layer_config": {}},
    "dots3_note": {"text_config": {"head_dim": 16, "per_layer_config": {}}, "vision_config": {"per_layer_config": {}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": [48] * 5},
    "inkling_text": _INKLING,
    "inkling2_text": _INKLING,
    "phi4_multimodal": {
        "audio_config": {"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 32},
        "vision_config": {"image_size": 56, "crop_size": 56},
    },
    "rwkv": {"attention_hidden_size": 32},
    "reformer": {"axial_pos_embds": False, "feed_forward_size": 48, "attention_head_size": 8},
    "got_ocr2": {"vision_config": {"output_channels": 32, "image_size": 64}},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},  # it rounds its widths up to 64
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_head_dim": 16},
    "zamba2": {"attention_head_dim": 16},
    "t5gemma": {"vocab_size": 1024, "encoder": {"vocab_size": 1024}, "decoder": {"vocab_size": 1024}},
    "t5gemma2": {
        "vocab_size": 1024,
        "decoder": {"vocab_size": 1024},
        "encoder": {"text_config": {"vocab_size": 1024}},
    },
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 20},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "encoder-decoder": {"encoder": {"model_type": "bert"}, "decoder": {"model_type": "bert"}},
}
"""Settings of types whose config needs more than smaller numbers."""


class TooLongError(Exception):
    """A type took longer than it may."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of a type of model.

    Attributes:
        model_type: Its name.
        outcome: "works", "refused" or "fails".
        steps: How a rollout reads, where it works: the lane cache, or the whole text at every step.
        about: The sentence with which it is refused, or what failed.
        parameters: How many the small model has.
        difference: The largest between two log-probs that should be equal, nats.
        seconds: Time of the processor that it took.
    """

    model_type: str
    outcome: str
    steps: str = ""
    about: str = ""
    parameters: int = 0
    difference: float = 0.0
    seconds: float = 0.0


def small_config(model_type: str) -> dict[str, Any]:
    """Returns settings that make a small model of a type.

    Args:
        model_type: The type's name.
    """
    default = AutoConfig.for_model(model_type).to_dict()
    return {"model_type": model_type, **_merged(_smaller(default), OVERRIDES.get(model_type, {}))}


def _smaller(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are too large, and those in nested configs, cut.

    There are as many layers as it takes to have one of each kind, and at least two.
    """
    named = [name for name in settings if name in _LAYERS and isinstance(settings[name], int)]
    before = settings[named[0]] if named else 0
    layers = next((_layers_of_all_kinds(settings[name]) for name in _KINDS if settings.get(name)), 2)
    cut: dict[str, Any] = {}
    for name, value in settings.items():
        if name in named:
            cut[name] = min(value, layers)
        elif isinstance(value, (list, tuple)) and len(value) == before > layers:
            cut[name] = list(value[:layers])
        elif isinstance(value, Mapping) and name.endswith(("_config", "encoder", "decoder")):
            cut[name] = _smaller(value)
        elif type(value) is int and value > _SIZE_OF.get(name, value):
            cut[name] = _SIZE_OF[name]
    if settings.get("is_decoder") is False and not settings.get("is_encoder_decoder"):
        cut["is_decoder"] = True
    if "kv_lora_rank" in settings:  # latent attention has as many key heads as query heads
        cut["num_key_value_heads"] = cut["num_attention_heads"]
    return cut


def _layers_of_all_kinds(kinds: Sequence[str]) -> int:
    """Returns how many of the first layers include each kind of layer, at least two."""
    return max(2, *(list(kinds).index(kind) + 1 for kind in set(kinds)))


def _merged(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with others in their place, nested ones too."""
    merged = dict(settings)
    for name, value in others.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return merged


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Interrupts what runs in it after some seconds of the processor's time, where the system can."""
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def try_type(model_type: str) -> Found:
    """Tries one type of model.

    Args:
        model_type: Its name.

    Returns:
        What became of it. A failure is an outcome too, and no exception.
    """
    began = time.process_time()
    found = Found(model_type=model_type, outcome="fails")
    try:
        with time_limit(MOST_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _try(found)
    except Exception as error:  # a failure of one type must not keep the others from being tried
        found = replace(found, about=f"{type(error).__name__}: {error}")
    return replace(found, seconds=time.process_time() - began)


def _try(found: Found) -> Found:
    """Makes a policy, plays, learns, saves and loads."""
    try:
        policy = Policy.from_config(_settings(found.model_type), "stories", device="cpu")
    except (ValueError, ImportError) as error:  # an ImportError names the library that this type needs
        return replace(found, outcome="refused", about=str(error).strip())
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    found = replace(found, parameters=parameters)
    if parameters > MOST_PARAMETERS:
        raise AssertionError(f"Expected at most {MOST_PARAMETERS:,} parameters, got {parameters:,}")
    _spread(policy)
    differences = [_difference(policy, _play(policy, max_new_tokens)) for max_new_tokens in (4, 14)]
    is_slow = isinstance(policy.context(2, 16), FullContext)
    found = replace(found, steps="whole text" if is_slow else "cache", difference=max(differences))
    if not found.difference <= TOLERANCE:
        raise AssertionError(f"Expected equal log-probs, got some that differ by {found.difference:.2g} nats")
    with tempfile.TemporaryDirectory() as folder:
        try:
            policy.save_pretrained(folder)  # as a run does before its first update
        except ValueError as error:
            return replace(found, outcome="refused", about=str(error).replace(folder, "the folder"))
    _check_update(policy)
    _check_reload(policy)
    return replace(found, outcome="works")


def _settings(model_type: str) -> dict[str, Any]:
    """Returns the settings of a small model; those alone that name the type, where its own defaults are no config."""
    try:
        return small_config(model_type)
    except StrictDataclassError:
        return {"model_type": model_type}


@torch.no_grad()
def _spread(policy: Policy) -> None:
    """Gives a policy weights that are large enough for its distributions to depend on the text."""
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.model.parameters():
        if parameter.ndim >= 2 and parameter.requires_grad:
            parameter.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)
    policy.value_head.weight.normal_(0.0, 0.3, generator=generator)


_PLAY = {"task": "stories", "reward": "length", "max_prompt_length": 12}


def _play(policy: Policy, max_new_tokens: int) -> Rollout:
    """Plays six episodes in four lanes, so that lanes begin again while others go on."""
    env = make_env("TextGen-v0", policy, 4, max_new_tokens=max_new_tokens, **_PLAY)
    return collect(env, policy, 6, seed=0, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _difference(policy: Policy, rollout: Rollout) -> float:
    """Returns the largest difference between log-probs of a rollout, of `evaluate` and of plain Transformers."""
    mask = rollout.response_mask
    again = policy.evaluate(rollout.input_ids, rollout.positions, mask).log_probs
    difference = float((again - rollout.log_probs)[mask].abs().max())
    spread = float(rollout.log_probs[mask].std())
    if not spread > 0.05:
        raise AssertionError(f"Expected distributions that depend on the text, got log-probs that spread by {spread}")
    size = policy.tokenizer.vocab_size
    for row in range(2):
        last = int(mask[row].sum()) - 1
        for step in sorted({0, 1, last // 2, last}):
            position = int(rollout.positions[row, step])
            logits = _plain_logits(policy, rollout.input_ids[row], int(rollout.positions[row, 0]), position)[:size]
            plain = torch.log_softmax(logits.float(), dim=-1)[rollout.input_ids[row, position]]
            difference = max(difference, abs(float(plain - rollout.log_probs[row, step])))
    return difference


def _plain_logits(policy: Policy, row: Tensor, prompt: int, position: int) -> Tensor:
    """Returns the logits of the token at a position, from the unpadded text before it: `(logits,)`."""
    config = policy.model.config
    if config.is_encoder_decoder:
        start = row.new_tensor([config.decoder_start_token_id])
        answer = torch.cat([start, row[prompt:position]])
        logits: Tensor = policy.model(input_ids=row[None, :prompt], decoder_input_ids=answer[None]).logits
    else:
        logits = policy.model(input_ids=row[None, :position]).logits
    return logits[0, -1]


def _check_update(policy: Policy) -> None:
    """Makes one update of PPO, which must be finite and change weights."""
    before = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    agent = PPO(
        policy, "TextGen-v0", env_kwargs={**_PLAY, "max_new_tokens": 5}, num_envs=4, episodes_per_update=8,
        minibatch_size=4, seed=0, device="cpu",
    )  # fmt: skip
    rows: list[Mapping[str, Any]] = []
    agent.learn(1, on_update=rows.append)
    if agent.updates != 1:
        raise AssertionError(f"Expected one update, got {agent.updates}")
    after = dict(policy.model.named_parameters())
    if not all(bool(parameter.isfinite().all()) for parameter in after.values()):
        raise AssertionError("Expected finite weights after an update")
    if not any(bool((after[name] != parameter).any()) for name, parameter in before.items()):
        raise AssertionError("Expected an update to change weights")


@torch.no_grad()
def _check_reload(policy: Policy) -> None:
    """Saves and loads, and compares weights, log-probs and tokenizers."""
    rollout = _play(policy, 5)
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        again = Policy.from_pretrained(folder, device="cpu")
    mine, theirs = policy.state_dict(), again.state_dict()
    if mine.keys() != theirs.keys() or any(not torch.equal(mine[name], theirs[name]) for name in mine):
        raise AssertionError("Expected the same weights from a saved folder")
    arguments = rollout.input_ids, rollout.positions, rollout.response_mask
    difference = float((policy.evaluate(*arguments).log_probs - again.evaluate(*arguments).log_probs).abs().max())
    if not difference <= _ROUNDING:
        raise AssertionError(f"Expected the same log-probs from a saved folder, got some {difference:.2g} nats away")
    if other := tokenizer_difference(policy.tokenizer, again.tokenizer):
        raise AssertionError(f"Expected the same tokenizer from a saved folder, got {other}")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Try every type of language model that Transformers offers."""

    types: tuple[str, ...] = ()
    """Names of types; none: all of them."""
    output: Path = RESULTS / "models"
    """Name of the results: a .json and a .md file."""


def main(argv: Sequence[str]) -> None:
    """Tries the types, and writes the table.

    Args:
        argv: The options of the command.
    """
    arguments = tyro.cli(Arguments, args=list(argv), prog="python -m benchmarks models")
    about = machine("torch", "transformers", "tokenizers")
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    logging.disable(logging.WARNING)  # that a type reads the whole text at every step is in the table
    rows = []
    for model_type in arguments.types or MODEL_TYPES:
        rows.append(try_type(model_type))
        print(f"{model_type}: {rows[-1].outcome} {rows[-1].about:.200}", flush=True)
    results = {"command": command_line("models", argv), "machine": about, "rows": [asdict(row) for row in rows]}
    write(arguments.output, results, page(results))


def page(results: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    rows = results["rows"]
    works = [row for row in rows if row["outcome"] == "works"]
    others = [row for row in rows if row["outcome"] != "works"]
    cached = sum(row["steps"] == "cache" for row in works)
    note = (
        f"{len(rows)} types, small and with random weights. {len(works)} work: the log-probs of a rollout, of "
        f"`evaluate` and of plain Transformers on unpadded texts differ by at most "
        f"{max((row['difference'] for row in works), default=0):.1g} nats, a PPO update is finite and changes weights, "
        f"and a saved folder gives the same weights and token ids back, bit for bit, and log-probs within "
        f"{_ROUNDING:.0e}. {cached} of them read each token once (cache), {len(works) - cached} the whole text at "
        f"every step. {len(others)} are refused, by the sentence that is shown. A sentence about sizes is of the small "
        "config that this command makes, and not of the type."
    )
    header = ["type", "steps", "parameters", "difference, nats"]
    cells = [[row["model_type"], row["steps"], f"{row['parameters']:,}", f"{row['difference']:.1g}"] for row in works]
    lines = [*heading("Types of language models", results, note), *table(header, cells), "", "## Refused", ""]
    reasons = [[row["model_type"], row["outcome"], _in_a_cell(row["about"])] for row in others]
    return "\n".join([*lines, *table(["type", "outcome", "sentence"], reasons)]) + "\n"


def _in_a_cell(sentence: str) -> str:
    """Returns a sentence as a table can hold it: in one line, without bars, and not too long."""
    line = " ".join(sentence.split()).replace("|", "/").replace("<", "&lt;")
    return line if len(line) <= 300 else line[:300] + " ..."
