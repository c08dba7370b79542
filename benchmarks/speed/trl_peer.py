"""One of TRL's trainers, one iteration at a time. A script for another interpreter: it imports nothing of this project.

    python benchmarks/speed/trl_peer.py SPEC.json

It prints "@{...}" when it is ready. For each line that it reads, it does an iteration and prints its time and memory in
the same way. TRL's PPO was written for reward models, so it gets the smallest there is; GRPO and RLOO get a function
that costs nothing. The algorithm that they are compared with scores every token.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

PASSES = 4  # over each batch, in as many minibatches


def say(answer: dict[str, Any]) -> None:
    """Answers the process that started this one."""
    print("@" + json.dumps(answer), flush=True)


def memory_mb(field: str) -> float:
    """Reads a line of /proc/self/status in MB: "VmRSS", the memory now, or "VmHWM", the peak since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"Expected a line {field!r} in /proc/self/status, got none: memory is measured on Linux alone")


def reset_peak() -> None:
    """Starts a new measurement of peak memory. A child's rusage would not do: its peak starts at the parent's."""
    Path("/proc/self/clear_refs").write_text("5")


class Turns(transformers.TrainerCallback):
    """Waits for a line before each iteration, and answers with its time and memory afterwards."""

    def __init__(self, steps: int, tokens: Any) -> None:
        self.steps, self.tokens = steps, tokens
        self.taken = 0

    def _wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        self.clock, self.processor = time.perf_counter(), time.process_time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the first line."""
        reset_peak()
        self.before = memory_mb("VmRSS")
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answers and waits after the last optimiser step of an iteration."""
        self.taken += 1
        if self.taken % self.steps:
            return
        clock, processor = time.perf_counter() - self.clock, time.process_time() - self.processor
        added = memory_mb("VmHWM") - self.before
        say({"tokens": self.tokens(), "clock": clock, "processor": processor, "added_mb": added})
        self._wait()


def make_model(spec: dict[str, Any]) -> Any:
    """Makes the model that all peers have, with random weights."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**spec["config"])
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    folder = str(Path(spec["folder"]) / "model")  # GRPO and RLOO load their reference from there, without the bias
    model.save_pretrained(folder)
    model.config._name_or_path = folder
    head = torch.nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=True)
    head.weight = model.lm_head.weight
    with torch.no_grad():
        head.bias.zero_()
        head.bias[:3] = -30.0
        head.bias[0] = spec["eos_bias"]
    model.lm_head = head
    return model


def ppo(spec: dict[str, Any], tokenizer: Any, folder: Path) -> Any:
    """Makes TRL's PPO."""
    module, datasets = importlib.import_module("trl.experimental.ppo"), importlib.import_module("datasets")
    tiny = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 32}
    tiny |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    value_config = transformers.AutoConfig.for_model(**spec["config"], num_labels=1)
    reward_config = transformers.AutoConfig.for_model(**{**spec["config"], **tiny}, num_labels=1)
    make = transformers.AutoModelForSequenceClassification.from_config
    data = datasets.Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in spec["prompts"]]})
    episodes = spec["episodes"]
    args = module.PPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=max(1, episodes // PASSES),
        gradient_accumulation_steps=min(PASSES, episodes),
        num_mini_batches=min(PASSES, episodes),
        num_ppo_epochs=PASSES,
        local_rollout_forward_batch_size=min(spec["lanes"], episodes),
        response_length=spec["new_tokens"],
        temperature=1.0,
        total_episodes=10**7,
        learning_rate=1e-5,
        num_sample_generations=0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    return module.PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=make_model(spec),
        ref_model=make_model(spec),
        reward_model=make(reward_config, dtype=torch.float32),
        value_model=make(value_config, dtype=torch.float32),
        train_dataset=data,
        eval_dataset=data.select(range(4)),
        callbacks=[Turns(1, lambda: episodes * spec["new_tokens"])],
    )


def grouped(spec: dict[str, Any], tokenizer: Any, folder: Path) -> Any:
    """Makes TRL's GRPO or RLOO."""
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    name = spec["algorithm"].upper()
    config, trainer = getattr(trl, f"{name}Config"), getattr(trl, f"{name}Trainer")
    episodes = spec["episodes"]
    written = [0]

    def reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        written[0] = sum(len(ids) for ids in completion_ids)
        return [float(len(ids) % 2) + 0.001 * index for index, ids in enumerate(completion_ids)]

    args = config(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=episodes // PASSES,
        gradient_accumulation_steps=1,
        steps_per_generation=PASSES,
        num_iterations=PASSES,
        num_generations=min(8, episodes),
        max_completion_length=spec["new_tokens"],
        generation_kwargs={"min_new_tokens": spec["min_new_tokens"]} if spec["min_new_tokens"] else None,
        temperature=1.0,
        beta=0.04,
        max_steps=10**7,
        learning_rate=1e-5,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    return trainer(
        model=make_model(spec),
        reward_funcs=reward,
        args=args,
        train_dataset=datasets.Dataset.from_dict({"prompt": spec["prompts"]}),
        processing_class=tokenizer,
        callbacks=[Turns(PASSES * PASSES, lambda: written[0])],
    )


def main() -> None:
    """Trains until the other process stops asking."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    folder = Path(spec["folder"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<eos>",
        bos_token="<bos>",
        pad_token="<pad>",
        padding_side="left",
    )
    trainer = (ppo if spec["algorithm"] == "ppo" else grouped)(spec, tokenizer, folder)
    say({"version": importlib.metadata.version("trl")})
    trainer.train()


if __name__ == "__main__":
    main()
