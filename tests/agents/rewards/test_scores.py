"""Scores that need a network: held to their definitions in plain Transformers, and to the contract of every reward."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from agents import PPO, Policy, load
from agents.evaluation.evaluation import held_out_scores
from agents.policy.pretrained import ADAPTERS_FOLDER
from agents.rewards.bertscore import BERTScore
from agents.rewards.classifier import ClassifierScore
from agents.rewards.language_model import LanguageModelScore
from agents.rewards.network_reward import NetworkReward
from agents.rewards.preference import LogRatioScore, PreferenceScore
from agents.rewards.preference_record import RECORD
from agents.rewards.text_encoder import load_encoder
from agents.rewards.text_reader import TextModel, load_text_model, stretches
from agents.supervised import reward_model
from tests.helpers import slow_but
from tests.textenvs.helpers import LINES, backend_of
from textenvs import Example, RewardError, list_rewards, make_reward, make_tokenizer
from textenvs.testing import check_reward
from textenvs.tokenizer import SubwordTokenizer

EXAMPLE = Example("Once upon a time", ("there was a happy little fox.", "a fox can't swim."))
RESPONSE = ", there was a fox. It wasn't sad!"


def language_model(folder: Path, kind: str, tokenizer: str, seed: int = 0) -> str:
    """A random model of an architecture over a tokenizer, saved; its weights spread out so that every token matters."""
    backend = backend_of(tokenizer)
    size = SubwordTokenizer(backend).vocab_size
    shape: dict[str, Any] = {"vocab_size": size + 3, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    shape.update(num_attention_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=3)
    configs = {
        "llama": lambda: transformers.LlamaConfig(**shape, num_key_value_heads=1, max_position_embeddings=512),
        "qwen2": lambda: transformers.Qwen2Config(**shape, num_key_value_heads=1, max_position_embeddings=512),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=512),
        "gemma2": lambda: transformers.Gemma2Config(
            **shape, num_key_value_heads=1, head_dim=8, max_position_embeddings=512, final_logit_softcapping=3.0
        ),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**shape, max_position_embeddings=512),
    }
    torch.manual_seed(seed)
    policy = Policy(spread(AutoModelForCausalLM.from_config(configs[kind]())), backend)
    torch.nn.init.normal_(policy.value_head.weight, std=0.3)
    policy.save_pretrained(folder)
    return str(folder)


def spread(model: Any) -> Any:
    """The model with larger weights."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "norm" not in name:
                parameter.normal_(0.0, 0.4)
    return model


def record(folder: str, method: str, temperature: float, beta: float = 0.1) -> None:
    """Say that a folder's model was trained from preferences."""
    found = {"format": 1, "method": method, "temperature": temperature, "config": {"beta": beta}}
    (Path(folder) / RECORD).write_text(json.dumps(found))


READERS = [
    ("gpt2", "byte_level"),
    ("llama", "sentencepiece-strip"),
    ("qwen2", "bundled"),
    ("gpt_neox", "sentencepiece-metaspace"),
    ("llama", "sentencepiece-gemma"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Every model that the tests of this file read."""
    root = tmp_path_factory.mktemp("models")
    for kind, tokenizer in READERS:
        language_model(root / f"{kind}-{tokenizer}", kind, tokenizer)
    preference = language_model(root / "preference", "llama", "sentencepiece-strip", seed=1)
    record(preference, "bradley_terry", 0.5)
    dpo = language_model(root / "dpo", "gpt2", "byte_level", seed=2)
    language_model(root / "dpo" / "reference", "gpt2", "byte_level", seed=3)
    record(dpo, "dpo", 2.0, beta=0.3)
    for name, labels in (("classifier", ["sad", "happy", "neither"]), ("graded", ["grade"])):
        encoder(root / name, transformers.BertForSequenceClassification, labels)
    encoder(root / "encoder", transformers.BertModel, ["sad", "happy"])
    decoder_classifier(root / "decoder")
    return root


def encoder(folder: Path, kind: Any, labels: list[str]) -> None:
    backend = backend_of("word_piece")
    ids = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=backend.get_vocab_size(), hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=64, id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
    )  # fmt: skip
    spread(kind(config)).save_pretrained(folder)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names).save_pretrained(folder)


def decoder_classifier(folder: Path) -> None:
    """A classifier on a decoder that knows no padding."""
    backend = backend_of("byte_level")
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        vocab_size=backend.get_vocab_size(), n_embd=16, n_layer=2, n_head=2, n_positions=128, num_labels=2
    )
    spread(transformers.GPT2ForSequenceClassification(config)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)


# The contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", slow_but({"byte_level"}, ["byte_level", "sentencepiece-strip"]))
@pytest.mark.parametrize(("kind", "tokenizer"), READERS)
def test_lm_keeps_the_contract_whoever_writes(folders, kind, tokenizer, writer):
    """The policy's tokens and the language model's are of different kinds, or of the same."""
    reward = {"lm": {"model": str(folders / f"{kind}-{tokenizer}"), "reduction": "sum"}}
    check_reward(reward, backend_of(writer), max_examples=4)


@pytest.mark.parametrize("writer", slow_but({"byte_level"}, ["byte_level", "sentencepiece-strip", "bundled"]))
@pytest.mark.parametrize(
    "reward",
    [
        {"lm": {"baseline": 3.0, "min_tokens": 5}},
        {"preference": {"model": "preference"}},
        {"dpo": {"model": "dpo"}},
        {"classifier": {"model": "classifier", "label": "happy"}},
        {"classifier": {"model": "classifier", "label": 0, "output": "logit", "reads": "pair"}},
        {"classifier": {"model": "decoder", "output": "logit", "reads": "text"}},
        {"bertscore": {"model": "encoder"}},
        {"bertscore": {"model": "encoder", "part": "recall", "layer": 1}},
        {"lm": 0.3, "preference": {"model": "preference", "weight": -2.0}},
    ],
    ids=str,
)
def test_every_score_keeps_the_contract(folders, reward, writer):
    named = json.loads(json.dumps(reward))
    for arguments in named.values():
        if isinstance(arguments, dict) and "model" in arguments:
            arguments["model"] = str(folders / arguments["model"])
    check_reward(named, None if writer == "bundled" else backend_of(writer), max_examples=4)


@pytest.mark.parametrize("combinator", ["min", "mean_minus_std"])
def test_ensembles_keep_the_contract(folders, combinator):
    """Two opinions of different scales: a reward model's, and a log-ratio's."""
    members = [{"preference": {"model": str(folders / "preference")}}, {"dpo": {"model": str(folders / "dpo")}}]
    check_reward({combinator: {"of": members}}, max_examples=4)
    opinions = [make_reward(member).score(EXAMPLE, RESPONSE) for member in members]
    expected = min(opinions) if combinator == "min" else np.mean(opinions) - np.std(opinions)
    assert make_reward({combinator: {"of": members}}).score(EXAMPLE, RESPONSE) == pytest.approx(expected, rel=1e-9)


def test_lm_keeps_the_contract_on_a_real_model(stories260k):
    check_reward({"lm": {"model": str(stories260k)}}, str(stories260k), max_examples=8)


def test_the_slow_path_without_a_cache_gives_the_same(folders, monkeypatch):
    """A model that does not run on the lane cache: every step reads whole texts."""
    model = load_text_model(folders / "gpt2-byte_level")
    monkeypatch.setattr(model.policy, "uses_cache", False)
    check_reward({"lm": {"model": str(folders / "gpt2-byte_level")}}, max_examples=4)


def test_float32_is_off_by_no_more_than_the_docs_say(folders):
    reward = {"lm": {"model": str(folders / "gpt2-byte_level"), "reduction": "sum", "dtype": "float32"}}
    check_reward(reward, max_examples=8, tolerance=1e-3)


# Definitions ----------------------------------------------------------------------------------------------------------


def transformers_log_probs(folder: str | Path, prompt: list[int], response: list[int]) -> list[float]:
    """In float64, from Transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0]
    log_probs = logits.log_softmax(dim=-1)
    return [float(log_probs[len(prompt) + place - 1, token]) for place, token in enumerate(response)]


def test_lm_is_the_log_prob_under_transformers(folders):
    folder = folders / "gpt2-byte_level"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, response = tokenizer(EXAMPLE.prompt).input_ids, tokenizer(RESPONSE).input_ids
    expected = transformers_log_probs(folder, prompt, response)
    assert LanguageModelScore(folder, "sum").score(EXAMPLE, RESPONSE) == pytest.approx(sum(expected), rel=1e-9)
    mean = sum(expected) / len(expected)
    assert LanguageModelScore(folder).score(EXAMPLE, RESPONSE) == pytest.approx(mean, rel=1e-9)
    shifted = LanguageModelScore(folder, baseline=2.5, min_tokens=1000).score(EXAMPLE, RESPONSE)
    assert shifted == pytest.approx((sum(expected) + 2.5 * len(expected)) / 1000, rel=1e-9)


def test_what_a_model_does_to_its_logits_counts(tmp_path):
    """Gemma's soft cap. Without it, the log-prob would be another one, and nothing would say so."""
    folder = language_model(tmp_path / "gemma2", "gemma2", "sentencepiece-gemma")
    model = load_text_model(folder)
    prompt, response = model.prompt_ids(EXAMPLE.prompt), model.response_ids(RESPONSE)
    expected = sum(transformers_log_probs(folder, prompt, response))
    assert LanguageModelScore(folder, "sum").score(EXAMPLE, RESPONSE) == pytest.approx(expected, rel=1e-9)
    # Its attention has a softmax in float32 whatever the model is in, so a push is off by that.
    check_reward({"lm": {"model": folder, "reduction": "sum"}}, max_examples=3, tolerance=1e-6)


def test_an_encoder_decoder_is_refused(tmp_path):
    shape = {"d_model": 16, "d_ff": 24, "num_layers": 1, "num_heads": 2, "d_kv": 8, "decoder_start_token_id": 3}
    backend = backend_of("unigram")
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=backend.get_vocab_size(), **shape))
    Policy(model, backend).save_pretrained(tmp_path)
    with pytest.raises(RewardError, match="Expected a causal language model"):
        raise_from(LanguageModelScore(tmp_path))


def test_lm_of_a_real_model_on_a_story(stories260k, shared_data):
    line = json.loads((shared_data / "tinystories" / "stories.jsonl").read_text().splitlines()[0])["text"]
    words = line.split(" ")
    prompt, response = " ".join(words[:8]), " " + " ".join(words[8:40])
    backend = AutoTokenizer.from_pretrained(stories260k)
    whole, before = backend(prompt + response).input_ids, backend(prompt).input_ids
    assert whole[: len(before)] == before
    expected = transformers_log_probs(stories260k, before, whole[len(before) :])
    score = LanguageModelScore(stories260k).score(Example(prompt), response)
    assert score == pytest.approx(np.mean(expected), rel=1e-9)
    assert -3.0 < score < -0.5  # it knows such stories: a uniform guess would be -6.2
    shuffled = " " + " ".join(sorted(words[8:40]))
    assert LanguageModelScore(stories260k).score(Example(prompt), shuffled) < score - 1


@pytest.fixture(scope="module")
def chatty(folders) -> Path:
    """A model whose tokenizer has a chat template."""
    folder = folders / "chatty"
    shutil.copytree(folders / "qwen2-bundled", folder)
    template = "{{ bos_token }}{% for one in messages %}{{ one.role }}: {{ one.content }}\n{% endfor %}assistant:"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_lm_reads_a_prompt_in_a_chat_template(chatty):
    asked, written = Example("Who lived there?"), Example("user: Who lived there?\nassistant:")
    plain, chat = LanguageModelScore(chatty), LanguageModelScore(chatty, chat_template=True)
    assert chat.score(asked, RESPONSE) == pytest.approx(plain.score(written, RESPONSE), abs=1e-12)
    assert chat.score(asked, RESPONSE) != pytest.approx(plain.score(asked, RESPONSE), abs=1e-3)
    check_reward({"lm": {"model": str(chatty), "chat_template": True}}, max_examples=4)


@pytest.mark.parametrize("method", ["bradley_terry", "dpo"])
def test_a_preference_model_reads_as_it_was_trained(chatty, tmp_path, method):
    pairs = [reward_model.Pair(f"Is it {word}?", " yes it is", " no") for word in ("red", "big", "old")]
    config = reward_model.PreferenceConfig(method=method, epochs=1, chat_template=True)
    policy = Policy.from_pretrained(chatty, device="cpu")
    trained = reward_model.train(policy, pairs, pairs, config)
    margins = reward_model.margins(policy, pairs, trained) / trained.temperature
    reward_model.save(tmp_path / "model", policy, trained, None)
    score = (PreferenceScore if method == "bradley_terry" else LogRatioScore)(tmp_path / "model")
    for pair, margin in zip(pairs, margins, strict=True):
        chosen, rejected = (score.score(Example(pair.prompt), text) for text in (pair.chosen, pair.rejected))
        assert chosen - rejected == pytest.approx(margin, rel=1e-3, abs=1e-3)


def test_no_chat_without_a_template(folders):
    reward = LanguageModelScore(folders / "qwen2-bundled", chat_template=True)
    with pytest.raises(ValueError, match="Expected a model whose tokenizer has a chat template"):
        reward.score(EXAMPLE, RESPONSE)
    with pytest.raises(TypeError, match="Expected chat_template to be true or false, got 1"):
        LanguageModelScore(chat_template=1)


def test_a_folder_of_adapters_is_a_model(tmp_path):
    (tmp_path / ADAPTERS_FOLDER).mkdir()
    assert LanguageModelScore(tmp_path).model == str(tmp_path)


def test_stretches_are_spelled_as_whole_texts_are(folders, stories260k, shared_data):
    """For tokenizers that cut a text into words, and for SentencePiece's on ordinary text."""
    rows = (shared_data / "tinystories" / "stories.jsonl").read_text().splitlines()[:100]
    stories = [" " + json.loads(row)["text"] for row in rows]
    for folder in (stories260k, folders / "gpt2-byte_level", "tiny"):
        model = load_text_model(folder)
        for text in [*stories, *(" " + line for line in LINES)]:
            whole = tuple(model._tokenizer.encode_response(text))
            assert tuple(model.response_ids(text)) == whole


def test_stretches_begin_at_spaces_behind_something():
    assert stretches("") == []
    assert stretches("  a b  c\n d ") == ["  a", " b", "  c\n d", " "]
    assert stretches("It") == ["It"]


def test_the_text_of_a_special_token_is_text(folders):
    """A policy that spells "</s>" letter by letter does not end the text for its reader."""
    model = load_text_model(folders / "llama-sentencepiece-strip")
    eos = model.policy.tokenizer.eos_token_id
    assert eos not in model.response_ids("a</s> b")
    assert eos not in model.prompt_ids("a</s>")
    assert Policy.from_pretrained(folders / "llama-sentencepiece-strip").tokenizer.encode_batch(["</s>"])[0][-1] == eos


def value_of(folder: Path, ids: list[int]) -> float:
    """The value head at the last token, from Transformers and the file alone."""
    trunk = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    head = load_file(folder / "value_head.safetensors")
    with torch.no_grad():
        state = trunk(torch.tensor([ids])).last_hidden_state[0, -1]
    return float(state @ head["weight"][0].double() + head["bias"][0].double())


def test_preference_is_the_value_of_the_last_token_above_the_prompts(folders):
    folder = folders / "preference"
    model = TextModel(Policy.from_pretrained(folder, device="cpu"))
    prompt, response = model.prompt_ids(EXAMPLE.prompt), model.response_ids(RESPONSE)
    gained = value_of(folder, prompt + response) - value_of(folder, prompt)
    assert abs(gained) > 0.1
    assert PreferenceScore(folder, calibrated=False).score(EXAMPLE, RESPONSE) == pytest.approx(gained, rel=1e-9)
    assert PreferenceScore(folder).score(EXAMPLE, RESPONSE) == pytest.approx(gained / 0.5, rel=1e-9)
    assert PreferenceScore(folder).score(EXAMPLE, "") == 0.0


def test_dpo_is_beta_times_the_log_ratio(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders / "dpo")
    prompt, response = tokenizer(EXAMPLE.prompt).input_ids, tokenizer(RESPONSE).input_ids
    one = sum(transformers_log_probs(folders / "dpo", prompt, response))
    other = sum(transformers_log_probs(folders / "dpo" / "reference", prompt, response))
    assert LogRatioScore(folders / "dpo").score(EXAMPLE, RESPONSE) == pytest.approx(0.3 / 2.0 * (one - other), rel=1e-9)
    assert LogRatioScore(folders / "dpo", beta=1.0).score(EXAMPLE, RESPONSE) == pytest.approx(one - other, rel=1e-9)
    itself = LogRatioScore(folders / "dpo", reference=folders / "dpo", beta=1.0)
    assert itself.score(EXAMPLE, RESPONSE) == 0.0
    mixed = LogRatioScore(folders / "gpt2-byte_level", reference=folders / "llama-sentencepiece-strip", beta=2.0)
    parts = [LanguageModelScore(folders / name, "sum") for name in ("gpt2-byte_level", "llama-sentencepiece-strip")]
    first, second = (part.score(EXAMPLE, RESPONSE) for part in parts)
    assert mixed.score(EXAMPLE, RESPONSE) == pytest.approx(2.0 * (first - second), rel=1e-9)


def classifier_logits(folder: Path, *texts: str) -> torch.Tensor:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        encoded = AutoTokenizer.from_pretrained(folder)(*([text] for text in texts), return_tensors="pt")
        return model(**encoded).logits[0]


def test_classifier_is_what_transformers_says(folders):
    folder = folders / "classifier"
    logits = classifier_logits(folder, RESPONSE)
    probabilities = logits.softmax(dim=0)
    for label, place in (("sad", 0), ("happy", 1), (None, 2), (1, 1)):
        score = ClassifierScore(folder, label).score(EXAMPLE, RESPONSE)
        assert score == pytest.approx(float(probabilities[place]), rel=1e-9)
    assert ClassifierScore(folder).score(EXAMPLE, "") == 0.0

    def log_odds(found: torch.Tensor) -> float:
        p = float(found.softmax(dim=0)[1])
        return math.log(p / (1 - p))

    for reads, texts in (
        ("response", [(RESPONSE,), ("",)]),
        ("text", [(EXAMPLE.prompt + RESPONSE,), (EXAMPLE.prompt,)]),
        ("pair", [(EXAMPLE.prompt, RESPONSE), (EXAMPLE.prompt, "")]),
    ):
        full, empty = (log_odds(classifier_logits(folder, *one)) for one in texts)
        score = ClassifierScore(folder, "happy", output="logit", reads=reads).score(EXAMPLE, RESPONSE)
        assert score == pytest.approx(full - empty, rel=1e-9)


def test_a_classifier_with_one_output_is_a_grade(folders):
    logit = float(classifier_logits(folders / "graded", RESPONSE)[0])
    empty = float(classifier_logits(folders / "graded", "")[0])
    assert ClassifierScore(folders / "graded", output="logit").score(EXAMPLE, RESPONSE) == pytest.approx(logit - empty)
    probability = 1 / (1 + math.exp(-logit))
    assert ClassifierScore(folders / "graded").score(EXAMPLE, RESPONSE) == pytest.approx(probability, rel=1e-9)


def test_a_classifier_keeps_the_end_of_a_text_that_is_too_long(folders):
    long = "fox " * 100 + RESPONSE
    tail = ClassifierScore(folders / "classifier").score(EXAMPLE, long)
    assert tail != ClassifierScore(folders / "classifier").score(EXAMPLE, "fox " * 100)


def test_bertscore_is_greedy_matching(folders):
    """Written out with loops, over states that Transformers gives."""
    folder = folders / "encoder"
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def states(text: str) -> torch.Tensor:
        with torch.no_grad():
            found = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[2][0]
        return found

    def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
        return float(one @ two / (one.norm() * two.norm()))

    hypothesis, best = states(RESPONSE), {"precision": -1.0, "recall": -1.0, "f1": -1.0}
    for reference in map(states, EXAMPLE.references):
        table = [[cosine(one, two) for two in reference] for one in hypothesis]
        best_of_rows = [max(row) for row in table][1:-1]  # [CLS] and [SEP] are matched with, and not averaged over
        best_of_columns = [max(column) for column in zip(*table, strict=True)][1:-1]
        precision, recall = np.mean(best_of_rows), np.mean(best_of_columns)
        found = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
        best = {name: max(best[name], value) for name, value in found.items()}
    for part, value in best.items():
        assert BERTScore(folder, layer=2, part=part).score(EXAMPLE, RESPONSE) == pytest.approx(value, rel=1e-9)
    assert BERTScore(folder).score(EXAMPLE, EXAMPLE.references[1]) == pytest.approx(1.0, abs=1e-12)
    assert BERTScore(folder).score(EXAMPLE, "") == 0.0


def test_bertscore_agrees_with_its_library(folders):
    library = pytest.importorskip("bert_score", reason="bert-score is not installed")
    responses = [RESPONSE, "a happy fox", "The fox can't swim, but it doesn't mind"]
    references = ["there was a happy little fox.", "not a sad one", "and sings."]
    found = library.score(responses, references, model_type=str(folders / "encoder"), num_layers=2, device="cpu")
    for part, numbers in zip(("precision", "recall", "f1"), found, strict=True):
        ours = [
            BERTScore(folders / "encoder", layer=2, part=part).score(Example("", (reference,)), response)
            for response, reference in zip(responses, references, strict=True)
        ]
        assert ours == pytest.approx(numbers.tolist(), abs=1e-5)  # the library computes in float32


# Cost -----------------------------------------------------------------------------------------------------------------


def test_a_push_reads_the_unfinished_word_alone(folders):
    """The model reads each token about once, however long the text is, and all lanes together."""
    reward = LanguageModelScore(folders / "gpt2-byte_level")
    tokenizer = make_tokenizer(backend_of("byte_level"))
    scorer = reward.scorer(5, tokenizer)
    trunk, seen = reward.text_model().policy.model.base_model, []
    hook = trunk.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        lanes = np.arange(5)
        scorer.reset(lanes, [EXAMPLE] * 5)
        prompt = len(reward.text_model().prompt_ids(EXAMPLE.prompt))
        text = " the fox sings and sings." * 4
        for token in SubwordTokenizer(backend_of("byte_level")).encode_response(text):
            scorer.push(lanes, np.full(5, token))
    finally:
        hook.remove()
    assert seen[0] == (5, prompt)
    assert {rows for rows, _ in seen} == {5}
    written = len(reward.text_model().response_ids(text))
    assert written <= sum(width for _, width in seen[1:]) <= 2 * written
    assert max(width for _, width in seen[1:]) <= 4


def test_special_tokens_cost_nothing(folders):
    reward = LanguageModelScore(folders / "gpt2-byte_level")
    tokenizer = make_tokenizer("stories")
    scorer = reward.scorer(1, tokenizer)
    scorer.reset(np.array([0]), [EXAMPLE])
    hook = reward.text_model().policy.model.base_model.register_forward_pre_hook(lambda *_: pytest.fail("it was run"))
    try:
        assert scorer.push(np.array([0]), np.array([tokenizer.eos_token_id])).tolist() == [0.0]
    finally:
        hook.remove()


def test_models_are_shared_and_read_again_when_they_change(tmp_path):
    folder = Path(language_model(tmp_path / "lm", "gpt2", "byte_level"))
    one, two = LanguageModelScore(folder), LanguageModelScore(str(folder), reduction="sum")
    assert one.text_model() is two.text_model()
    before = one.score(EXAMPLE, RESPONSE)
    language_model(folder, "gpt2", "byte_level", seed=9)
    assert one.score(EXAMPLE, RESPONSE) != before


# Names, arguments, errors ---------------------------------------------------------------------------------------------


def test_scores_are_registered_and_made_from_json(folders):
    assert {"lm", "classifier", "preference", "dpo", "bertscore"} <= set(list_rewards())
    spec = {"lm": {"model": str(folders / "gpt2-byte_level"), "weight": 0.5}, "length": 1}
    made = make_reward(json.loads(json.dumps(spec)))
    assert set(made.parts) == {"lm", "length"}


@pytest.mark.parametrize("name", ["lm", "preference", "dpo", "classifier", "bertscore"])
def test_a_score_travels_to_another_process(folders, name):
    model = {"lm": "gpt2-byte_level", "bertscore": "encoder"}.get(name, name)
    reward = make_reward({name: {"model": str(folders / model)}})
    data = pickle.dumps(reward)
    assert len(data) < 2000, "names and numbers, and no weights"
    assert pickle.loads(data).score(EXAMPLE, RESPONSE) == reward.score(EXAMPLE, RESPONSE)


def test_making_a_score_loads_no_model(folders):
    """As in a worker that only unpickles: nothing is read but JSON."""
    code = (
        "import agents, textenvs, transformers\n"
        "from agents.rewards import text_reader\n"
        f"reward = textenvs.make_reward({{'lm': {{'model': {str(folders / 'gpt2-byte_level')!r}}}}})\n"
        "assert text_reader._load.cache_info().currsize == 0\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"lm": {"model": "no/such/folder"}}, "no such folder"),
        ({"lm": {"model": "ROOT"}}, "with a config.json"),
        ({"lm": {"reduction": "max"}}, "reduction to be 'mean' or 'sum', got 'max'"),
        ({"lm": {"baseline": math.inf}}, "baseline to be a finite number"),
        ({"lm": {"min_tokens": 0}}, "min_tokens to be at least 1"),
        ({"lm": {"dtype": "int8"}}, "dtype to be 'float64'"),
        ({"preference": {"model": "ROOT/gpt2-byte_level"}}, "which has no preference.json"),
        ({"preference": {"model": "ROOT/dpo"}}, "trained with 'bradley_terry'"),
        ({"preference": {"model": "tiny"}}, "which has no preference.json"),
        ({"dpo": {"model": "ROOT/preference"}}, "trained with 'dpo'"),
        ({"dpo": {"model": "ROOT/dpo", "beta": -1}}, r"beta in \(0, inf\)"),
        ({"dpo": {"model": "ROOT/dpo", "reference": "no/such/folder"}}, "no such folder"),
        ({"classifier": {"model": "ROOT/gpt2-byte_level"}}, "for sequence classification, got GPT2LMHeadModel"),
        ({"classifier": {"model": "ROOT/classifier", "label": "angry"}}, r"label from \['sad', 'happy', 'neither'\]"),
        ({"classifier": {"model": "ROOT/classifier", "output": "p"}}, "output to be"),
        ({"classifier": {"model": "ROOT/classifier", "reads": "all"}}, "reads to be"),
        ({"bertscore": {"model": "ROOT/encoder", "layer": 4}}, "layer from 0 to 3"),
        ({"bertscore": {"model": "ROOT/encoder", "part": "f2"}}, "part to be"),
    ],
    ids=str,
)
def test_bad_arguments_are_found_when_a_score_is_made(folders, spec, message):
    ((name, arguments),) = spec.items()
    filled = {
        key: value.replace("ROOT", str(folders)) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        make_reward({name: filled})


def test_a_classifier_without_its_head_is_refused(folders, tmp_path):
    """Transformers would make up a head, with a warning, and score at random."""
    encoder(tmp_path / "bare", transformers.BertModel, ["sad", "happy"])
    config = tmp_path / "bare" / "config.json"
    config.write_text(config.read_text().replace("BertModel", "BertForSequenceClassification"))
    with pytest.raises(RewardError, match=r"lack the weights.*classifier"):
        raise_from(ClassifierScore(tmp_path / "bare"))


def raise_from(reward: NetworkReward) -> None:
    from textenvs.rewards import checked_score

    checked_score(reward, EXAMPLE, RESPONSE)


def test_a_text_beyond_the_context_stops_with_its_name(folders):
    reward = LanguageModelScore(folders / "gpt2-byte_level")
    tokenizer = make_tokenizer("stories")
    scorer = reward.scorer(2, tokenizer)
    scorer.reset(np.array([0, 1]), [EXAMPLE, EXAMPLE])
    token = next(place for place, piece in enumerate(tokenizer.pieces) if piece == b"x")
    written = 0

    def write_on() -> None:
        nonlocal written
        while written < 600:
            scorer.push(np.array([1]), np.array([token]))
            written += 1

    with pytest.raises(RewardError, match=r"'lm' raised ValueError.*context of 512 tokens[\s\S]*Once upon a time"):
        write_on()
    assert written > 400
    with pytest.raises(RewardError, match=r"'lm' raised ValueError.*context of 512 tokens"):
        scorer.score_whole(np.array([0]), [EXAMPLE], [" fox" * 600])


def test_bertscore_wants_references(folders):
    scorer = BERTScore(folders / "encoder").scorer(1, make_tokenizer("stories"))
    with pytest.raises(RewardError, match="an example with references"):
        scorer.score_whole(np.array([0]), [Example("a")], ["b"])


# In an environment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payout", ["immediate", "sparse", "word", {"every": 3}])
def test_payouts_pay_the_score(folders, payout):
    reward = {"lm": {"model": str(folders / "llama-sentencepiece-strip"), "weight": 0.5}, "length": 1.0}
    envs = gym.make_vec(
        "TextGen-v0", num_envs=6, autoreset_mode="Disabled", reward=reward, payout=payout, max_new_tokens=9
    )
    assert "llama-sentencepiece-strip" in envs.spec.to_json()
    envs.reset(seed=0)
    envs.action_space.seed(0)
    paid, playing, scores = np.zeros(6), np.ones(6, dtype=bool), np.zeros(6)
    while playing.any():
        _, rewards, terminated, _, infos = envs.step(np.where(playing, envs.action_space.sample(), 1))
        paid += np.where(playing, rewards, 0.0)
        scores = np.where(playing, infos["score"], scores)
        playing &= ~terminated
    assert paid == pytest.approx(scores, abs=1e-9)
    assert (scores < 0).all()


def test_an_agent_trains_on_a_score_and_its_checkpoint_loads(folders, tmp_path):
    reward = {"preference": {"model": str(folders / "preference")}}
    settings = {"num_envs": 8, "episodes_per_update": 8, "epochs": 1}
    kwargs = {"reward": reward, "max_new_tokens": 5}
    agent = PPO("tiny", "TextGen-v0", seed=1, env_kwargs=kwargs, device="cpu", **settings)
    agent.learn(20, folder=tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.env.setting.reward.name == "preference"
    assert again.evaluate(8).score == agent.evaluate(8).score


def test_an_encoder_is_shared(folders):
    one = load_encoder(str(folders / "encoder"), "encoder")
    assert one is load_encoder(str(folders / "encoder"), "encoder")
    BERTScore(folders / "encoder").score(EXAMPLE, RESPONSE)
    assert {(None, text) for text in EXAMPLE.references} <= set(one.reference_states)


def test_references_beyond_what_is_kept_are_forgotten(folders, monkeypatch):
    """And what is asked for at once is there whole, however much it is."""
    examples = [Example("", (f"fox number {number}", f"dog number {number}")) for number in range(3)]
    responses = ["fox number 1", "a dog", "number 2"]
    expected = BERTScore(folders / "encoder").scores(examples, responses)
    encoder = load_encoder(str(folders / "encoder"), "encoder")
    encoder.reference_states.clear()
    monkeypatch.setattr(encoder, "most_reference_states", 4)
    reward = BERTScore(folders / "encoder")
    found = [reward.score(*pair) for pair in zip(examples, responses, strict=True)]
    assert found == pytest.approx(expected.tolist(), abs=1e-9)
    assert [text for _, text in encoder.reference_states] == list(examples[2].references), (
        "the first two examples filled it"
    )
    assert reward.scores(examples, responses) == pytest.approx(expected, abs=1e-9)
    assert len(encoder.reference_states) == 6
    assert reward.scores(examples[:2], responses[:2]) == pytest.approx(expected[:2], abs=1e-9)
    assert len(encoder.reference_states) == 6, "nothing new, nothing to forget"


def test_a_held_out_network_reads_in_batches(folders, monkeypatch):
    reward = ClassifierScore(folders / "classifier", label="happy")
    examples = [Example(f"prompt {number}") for number in range(150)]
    responses = [f"it is the {number}th fox" for number in range(150)]
    expected = [reward.score(*pair) for pair in zip(examples, responses, strict=True)]
    sizes, scores = [], ClassifierScore.scores
    monkeypatch.setattr(
        ClassifierScore, "scores", lambda self, some, texts: (sizes.append(len(texts)), scores(self, some, texts))[1]
    )
    found = held_out_scores(reward, examples, responses, make_tokenizer("stories"))
    assert found == pytest.approx(expected, abs=1e-9)
    assert sizes == [64, 64, 22]


@pytest.mark.parametrize("wrong", [float("nan"), ValueError("no fox")])
def test_a_held_out_metric_that_fails_is_named_with_the_response(wrong):
    def foxes(example, response):
        if response == "fox 7":
            if isinstance(wrong, ValueError):
                raise wrong
            return wrong
        return 1.0

    responses = [f"fox {number}" for number in range(9)]
    with pytest.raises(RewardError, match=r"foxes(.|\n)*fox 7"):
        held_out_scores(make_reward(foxes), [EXAMPLE] * 9, responses, make_tokenizer("stories"))
    pair = [EXAMPLE, Example("A story.", (), {"mood": "angry"})]
    with pytest.raises(RewardError, match=r"sentiment(.|\n)*'angry'"):
        held_out_scores(make_reward("sentiment"), pair, ["fox", "dog"], make_tokenizer("stories"))
