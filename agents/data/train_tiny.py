"""The script that trains the bundled language model on the stories corpus and writes it as a Transformers folder.

    python -m agents.data.train_tiny

It is a small Llama with the tokenizer of the stories task. Each story is `<bos>`, its text and `<eos>`; no story is
seen twice. Batches are right-padded, with stories of about the same length side by side, and the loss is over real
tokens alone. Weights are stored as float16, half the size, and load as float32, which is what config.json says.

It takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import textenvs.data.train_stories_tokenizer
from textenvs.tasks.stories import Stories

TOKENIZER_FILE = textenvs.data.train_stories_tokenizer.OUTPUT
BOS, EOS, PAD = 0, 1, 2
IGNORED = -100
BATCH_SIZE = 32
SORTED_BATCHES = 32
"""Stories are sorted by length within this many batches, so that little is padding."""

LEARNING_RATE = 4e-3
WARMUP_STEPS = 100
FIRST_HELD_OUT = 1_000_000_000
"""Corpus stories from this index on are never trained on."""


def build_model() -> LlamaForCausalLM:
    """Builds the untrained model, with weights from torch's global generator.

    Returns:
        A Llama decoder with tied embeddings. Two layers: three of width 96 learn no better, and are slower to decode.
    """
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: Tokenizer, stories: list[str]) -> list[list[int]]:
    """Encodes whole stories.

    Args:
        tokenizer: The tokenizer of the stories task, which puts BOS in front.
        stories: The texts.

    Returns:
        A list of ids for each story, from BOS to EOS.
    """
    return [[*encoding.ids, EOS] for encoding in tokenizer.encode_batch(stories)]


def collate(stories: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads stories on the right to a batch.

    Args:
        stories: Token ids of each story.

    Returns:
        Token ids and labels, both (batch, time) int64. Labels are `IGNORED` at padding.
    """
    length = max(map(len, stories))
    input_ids = torch.tensor([story + [PAD] * (length - len(story)) for story in stories])
    labels = torch.tensor([story + [IGNORED] * (length - len(story)) for story in stories])
    return input_ids, labels


def batches(task: Stories, tokenizer: Tokenizer, steps: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Makes the training batches, of stories that were not in an earlier one.

    Args:
        task: The task that the stories come from.
        tokenizer: The tokenizer of the stories task.
        steps: The number of batches.
        seed: Seed of the choice of stories, and of the order of the batches.

    Yields:
        Token ids and labels, as `collate` returns them.
    """
    generator = torch.Generator().manual_seed(seed)
    chunk = BATCH_SIZE * SORTED_BATCHES
    first = seed * 10_000_000 % FIRST_HELD_OUT
    for done in range(0, steps, SORTED_BATCHES):
        start = first + done * BATCH_SIZE
        stories = encode(tokenizer, [task.corpus_story(index) for index in range(start, start + chunk)])
        stories.sort(key=len)
        for batch in torch.randperm(SORTED_BATCHES, generator=generator).tolist()[: steps - done]:
            yield collate(stories[batch * BATCH_SIZE : (batch + 1) * BATCH_SIZE])


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, task: Stories, tokenizer: Tokenizer, num_stories: int = 512) -> float:
    """Computes the mean loss per token of stories that training has not seen.

    Args:
        model: The model.
        task: The task that the stories come from.
        tokenizer: The tokenizer of the stories task.
        num_stories: The number of stories.

    Returns:
        The mean over tokens of the negative log-likelihood, in nats.
    """
    stories = encode(
        tokenizer, [task.corpus_story(index) for index in range(FIRST_HELD_OUT, FIRST_HELD_OUT + num_stories)]
    )
    total, tokens = 0.0, 0
    for start in range(0, num_stories, BATCH_SIZE):
        input_ids, labels = collate(stories[start : start + BATCH_SIZE])
        count = int((labels[:, 1:] != IGNORED).sum())
        total += float(model(input_ids=input_ids, labels=labels).loss) * count
        tokens += count
    return total / tokens


def train(steps: int, seed: int) -> LlamaForCausalLM:
    """Trains the model, printing its loss every 200 updates.

    Args:
        steps: Number of updates.
        seed: Seed of the weights and the data.

    Returns:
        The trained model, float32, in evaluation mode.
    """
    task, tokenizer = Stories(), Tokenizer.from_file(str(TOKENIZER_FILE))
    torch.manual_seed(seed)
    model = build_model()
    print(f"{model.num_parameters():,} parameters")
    # Weight decay is for matrices: gains of norms are left alone.
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim >= 2], "weight_decay": 0.1},
        {"params": [weight for weight in model.parameters() if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))

    def scale(step: int) -> float:
        warmup = min(1.0, (step + 1) / WARMUP_STEPS)
        return warmup * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    started, tokens = time.perf_counter(), 0
    for step, (input_ids, labels) in enumerate(batches(task, tokenizer, steps, seed), start=1):
        loss = model(input_ids=input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tokens += int((labels != IGNORED).sum())
        if step % 200 == 0 or step == steps:
            seconds = time.perf_counter() - started
            held_out = held_out_loss(model, task, tokenizer)
            print(
                f"step {step:5d}  loss {loss.item():.3f}  held-out loss {held_out:.4f}  "
                f"{seconds:.0f} s  {tokens / seconds:,.0f} tokens/s",
                flush=True,
            )
    model.train(False)
    return model


def save(model: LlamaForCausalLM, output: Path) -> None:
    """Writes model and tokenizer as a folder for `from_pretrained`.

    Args:
        model: The trained model.
        output: The folder, made if it does not exist.
    """
    output.mkdir(parents=True, exist_ok=True)
    # The tied output layer is the embedding: stored once.
    weights = {
        name: value.half().contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"
    }
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = torch.float32
    model.config.save_pretrained(output)
    GenerationConfig(
        do_sample=True, max_new_tokens=64, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    ).save_pretrained(output)
    PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER_FILE),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=512,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(output)
    shutil.copyfile(TOKENIZER_FILE, output / "tokenizer.json")


@torch.no_grad()
def show(model: LlamaForCausalLM, num_samples: int = 8) -> None:
    """Prints sampled continuations of validation prompts.

    Args:
        model: The trained model.
        num_samples: The number of prompts.
    """
    task, tokenizer = Stories(), Tokenizer.from_file(str(TOKENIZER_FILE))
    for index in range(num_samples):
        prompt = task.example("validation", index).prompt
        input_ids = torch.tensor([tokenizer.encode(prompt).ids])
        output = model.generate(  # type: ignore[misc]
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids), do_sample=True, max_new_tokens=64
        )
        response = output[0, input_ids.shape[1] :].tolist()
        ending = " <eos>" if EOS in response else ""
        print(f"{prompt} >>>{tokenizer.decode(response, skip_special_tokens=True)}{ending}")


def main() -> None:
    """Reads the command line, trains, saves and shows samples."""
    parser = argparse.ArgumentParser(description="Train the bundled language model on the stories corpus.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tiny", help="the folder to write")
    parser.add_argument("--steps", type=int, default=2500, help="number of updates")
    parser.add_argument("--seed", type=int, default=0, help="seeds the weights and the data")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    model = train(arguments.steps, arguments.seed)
    save(model, arguments.output)
    size = (arguments.output / "model.safetensors").stat().st_size
    config = json.loads((arguments.output / "config.json").read_text(encoding="utf-8"))
    print(f"Wrote {size / 1e6:.2f} MB ({config['dtype']} when loaded) in {time.perf_counter() - started:.0f} s")
    show(LlamaForCausalLM.from_pretrained(arguments.output))


if __name__ == "__main__":
    main()
