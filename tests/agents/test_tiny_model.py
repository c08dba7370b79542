"""The bundled language model: its files, how well it knows the stories, and what it has not learned yet."""

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import agents.data.train_tiny as script
from textenvs.tasks import Stories

FOLDER = Path(script.__file__).parent / "tiny"
EOS = 1
TASK = Stories()
PERPLEXITY = 2.2  # measured: 2.05; a uniform guess: 1024


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """The bundled model."""
    return LlamaForCausalLM.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The bundled model's tokenizer, as Transformers loads it."""
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def responses(model: PreTrainedModel) -> list[list[int]]:
    """Sampled continuations of 256 validation prompts: token ids, cut behind EOS."""
    backend = Tokenizer.from_file(str(script.TOKENIZER_FILE))
    sampled: list[list[int]] = [[] for _ in range(256)]
    prompts = [backend.encode(TASK.example("validation", index).prompt).ids for index in range(256)]
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for indices in by_length.values():  # same length: no padding needed
            input_ids = torch.tensor([prompts[index] for index in indices])
            output = model.generate(  # type: ignore[operator]
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=96,
            )
            for index, row in zip(indices, output[:, input_ids.shape[1] :].tolist(), strict=True):
                sampled[index] = row[: row.index(EOS) + 1] if EOS in row else row
    return sampled


def test_loads_as_float32_with_tied_embeddings(model: PreTrainedModel) -> None:
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    weights = dict(model.named_parameters(remove_duplicate=False))
    assert weights["lm_head.weight"] is weights["model.embed_tokens.weight"]
    assert isinstance(AutoModelForCausalLM.from_pretrained(FOLDER), LlamaForCausalLM)
    config = model.config
    assert (config.model_type, config.vocab_size, config.max_position_embeddings) == ("llama", 1024, 512)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 1, 2)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_size() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 2_000_000


def test_tokenizer_loads(tokenizer: PreTrainedTokenizerBase) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert len(tokenizer) == 1024
    backend = Tokenizer.from_file(str(script.TOKENIZER_FILE))
    for text in (TASK.example("test", 0).prompt, " Tim cried.", "Zażółć gęślą jaźń 🦊\n\n  x"):
        assert tokenizer(text)["input_ids"] == backend.encode(text).ids
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_tokenizer_output_goes_into_the_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    batch = tokenizer(["A sad story.", "A happy story. Once"], padding=True, return_tensors="pt")
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 1, 1, 0]
    assert model(**batch).logits.shape == (2, 6, 1024)


def test_knows_held_out_stories(model: PreTrainedModel) -> None:
    backend = Tokenizer.from_file(str(script.TOKENIZER_FILE))
    loss = script.held_out_loss(model, TASK, backend, num_stories=256)
    assert math.exp(loss) < PERPLEXITY


def test_stories_end(responses: list[list[int]]) -> None:
    ended = [EOS in response for response in responses]
    assert sum(ended) / len(ended) > 0.9
    in_budget = [EOS in response[:32] for response in responses]
    assert 0.02 < sum(in_budget) / len(in_budget) < 0.5


def test_only_leans_towards_the_header(responses: list[list[int]]) -> None:
    backend = Tokenizer.from_file(str(script.TOKENIZER_FILE))
    analyzer = SentimentIntensityAnalyzer()
    signed = []
    for index, response in enumerate(responses):
        sign = {"happy": 1, "sad": -1}[TASK.example("validation", index).metadata["mood"]]
        signed.append(sign * analyzer.polarity_scores(backend.decode(response[:32]))["compound"])
    assert 0.05 < sum(signed) / len(signed) < 0.45  # the standard error is about 0.04
    assert sum(score > 0.3 for score in signed) > 50
    assert sum(score < -0.3 for score in signed) > 50


def test_sampled_stories_are_words_of_the_corpus(responses: list[list[int]]) -> None:
    backend = Tokenizer.from_file(str(script.TOKENIZER_FILE))
    known = {word for index in range(5000) for word in TASK.corpus_story(index).split()}
    words = [word for response in responses if EOS in response for word in backend.decode(response).split()]
    assert len(words) > 5000
    assert sum(word in known for word in words) / len(words) > 0.99


def test_no_machine_is_named_in_the_files() -> None:
    for file in FOLDER.glob("*.json"):
        assert "/" not in str(json.loads(file.read_text(encoding="utf-8")).get("_name_or_path", ""))


def test_training_lowers_the_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "BATCH_SIZE", 4)
    monkeypatch.setattr(script, "SORTED_BATCHES", 4)
    monkeypatch.setattr(script, "WARMUP_STEPS", 2)
    with torch.random.fork_rng():
        trained = script.train(steps=20, seed=1)
    backend = Tokenizer.from_file(str(script.TOKENIZER_FILE))
    assert script.held_out_loss(trained, TASK, backend, 32) < 5.5 < math.log(1024)
    script.save(trained, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(8)[None]
    torch.testing.assert_close(loaded(input_ids=ids).logits, trained(input_ids=ids).logits, atol=2e-2, rtol=2e-2)


def test_collate_pads_right_and_ignores_padding() -> None:
    input_ids, labels = script.collate([[0, 7, 1], [0, 1]])
    assert input_ids.tolist() == [[0, 7, 1], [0, 1, 2]]
    assert labels.tolist() == [[0, 7, 1], [0, 1, -100]]
