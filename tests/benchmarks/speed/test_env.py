"""`python -m benchmarks env`: that it plays what it says, and writes what it measured. Never how fast anything is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.speed import env as benchmark
from textenvs.tokenizer import decode

ROOT = Path(__file__).resolve().parents[3]


def test_text_actions_are_demonstrations() -> None:
    env: Any = gym.make("TextGen-v0", max_new_tokens=64).unwrapped
    demonstrations = {env.task.demonstration(example) for example in env.setting.pool.examples[:512]}
    lanes, eos = 5, env.tokenizer.eos_token_id
    envs = gym.make_vec("TextGen-v0", num_envs=lanes, autoreset_mode="SameStep", max_new_tokens=64)
    responses: list[list[int]] = [[] for _ in range(lanes)]
    finished = []
    envs.reset(seed=0)
    for actions in benchmark.make_actions("text", lanes, 64, 200):
        over = envs.step(actions)[2]
        for lane, token in enumerate(actions.tolist()):
            responses[lane].append(token)
            if over[lane]:
                finished.append(responses[lane])
                responses[lane] = []
    assert len(finished) > 3 * lanes
    for tokens in finished:  # an episode is one demonstration, whole or as far as the budget goes
        text = decode(env.tokenizer, tokens)
        if tokens[-1] == eos:
            assert text in demonstrations
        else:
            assert len(tokens) == 64
            assert any(demonstration.startswith(text) for demonstration in demonstrations)


def test_random_actions_are_of_the_whole_vocabulary() -> None:
    actions = benchmark.make_actions("random", 64, 64, 256)
    assert actions.shape == (256, 64)
    assert np.unique(actions).tolist() == list(range(1024))


def test_promises_by_hand() -> None:
    def speed(kind: str, lanes: int, steps: float, **other: str) -> dict[str, Any]:
        labels = {"actions": "random", "reward": "length", "payout": "sparse", **other}
        return {"kind": kind, "lanes": lanes, "steps_per_second": steps, **labels}

    results = {
        "speed": [
            speed("native", 1024, 9e9, actions="text"),
            speed("native", 1024, 6e6),
            speed("native", 1024, 9e9, payout="immediate"),
            speed("SyncVectorEnv", 1024, 2e5),
        ],
        "length": [
            {"length": 16, "payout": "sparse", "copy": False, "steps_per_second": 4e6},
            {"length": 16, "payout": "sparse", "copy": True, "steps_per_second": 1e6},
            {"length": 4096, "payout": "sparse", "copy": False, "steps_per_second": 2e6},
            {"length": 4096, "payout": "immediate", "copy": False, "steps_per_second": 1e6},
        ],
        "reset": [
            {"examples": 10, "payout": "sparse", "steps_per_second": 3e6},
            {"examples": 1000, "payout": "sparse", "steps_per_second": 1e6},
        ],
    }
    assert benchmark.checks(results) == [
        ("1024 lanes: millions of steps a second", "at least 5", 6.0),
        ("1024 lanes: times SyncVectorEnv's speed", "at least 25", 30.0),
        ("cost of a step at length 4,096, in that at 16", "about 1", 2.0),
        ("cost of a reset at examples 1,000, in that at 10", "about 1", 3.0),
    ]


def test_the_command_writes_json_a_table_and_a_plot(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks", "env", "--quick", "--output", str(tmp_path / "env")]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    results = json.loads((tmp_path / "env.json").read_text())
    table = (tmp_path / "env.md").read_text()
    assert run.stdout.endswith(table + "\n")
    assert results["command"] == f"python -m benchmarks env --quick --output {tmp_path / 'env'}"
    assert {"cpu", "cores", "numpy", "gymnasium", "textenvs"} <= set(results["machine"])
    kinds = {(row["kind"], row["lanes"]) for row in results["speed"]}
    assert kinds == {("single", 1), ("SyncVectorEnv", 2), ("native", 2)}
    settings = {(row["actions"], row["reward"], row["payout"]) for row in results["speed"]}
    assert len(results["speed"]) == len(kinds) * len(settings)
    assert {("random", "length", "sparse"), ("text", "sentiment", "immediate")} <= settings
    for name, count in (("speed", len(results["speed"])), ("length", 8), ("reset", 4)):
        assert len(results[name]) == count
        assert all(0 < row["least"] <= row["steps_per_second"] <= row["most"] for row in results[name])
    assert all(f"| {kind} | {lanes} | " in table for kind, lanes in kinds)
    assert (tmp_path / "env.png").read_bytes().startswith(b"\x89PNG")
