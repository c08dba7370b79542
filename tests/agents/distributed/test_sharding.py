"""Settings of Accelerate's config file, and a policy whose weights come and go. Processes: test_processes.py."""

import copy

import pytest
import torch

from agents.distributed import deepspeed, fsdp, processes
from agents.distributed.fsdp import Sharding
from agents.training import optimization
from agents.training.config import OptimizerConfig
from agents.training.meter import Meter
from tests.agents.helpers import make_policy

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)


def read(monkeypatch, **environment):
    for name, value in {**FSDP, **environment}.items():
        monkeypatch.setenv(name, value)
    return fsdp.wanted()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Sharding(layers=())),
        ({"ACCELERATE_USE_FSDP": "false"}, None),
        ({"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}, Sharding(layers=None)),
        (
            {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "A,B"},
            Sharding(layers=("A", "B")),
        ),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "5"}, Sharding(layers=(), least=5)),
        ({"FSDP_RESHARD_AFTER_FORWARD": "false"}, Sharding(layers=(), reshard_after_forward=False)),
    ],
)
def test_what_the_config_file_says(two, monkeypatch, environment, expected):
    assert read(monkeypatch, **environment) == expected


def test_one_process_cuts_nothing(monkeypatch):
    assert read(monkeypatch) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FSDP_VERSION": "1"}, "Expected fsdp_version: 2 .* got 1"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "use more processes, or --lora"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "use --gradient-checkpointing"),
        ({"FSDP_IGNORED_MODULES": "lm_head"}, "Expected no fsdp_ignored_modules"),
        ({"FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}, "to be true or false, got 'full_shard'"),
        ({"FSDP_AUTO_WRAP_POLICY": "ELSE"}, "got 'ELSE'"),
    ],
)
def test_what_is_not_supported_is_refused(two, monkeypatch, environment, message):
    with pytest.raises(ValueError, match=message):
        read(monkeypatch, **environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "got 'bf16': it is --precision"),
    ],
)
def test_what_no_process_can_start_with(monkeypatch, environment, message):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        processes.start("cpu")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "zero_stage: 1 .* got 2. .*fsdp_reshard_after_forward"),
        ({"ZERO_STAGE": "3"}, "zero_stage: 1 .* got 3"),
        ({"OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer_device: none .* got 'cpu'"),
        ({"CONFIG_FILE": "ds.json"}, "deepspeed_config_file: none .* got 'ds.json'"),
    ],
)
def test_what_of_deepspeed_is_not_supported_is_refused(two, monkeypatch, environment, message):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    for name, value in environment.items():
        monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name}", value)
    with pytest.raises(ValueError, match=message):
        deepspeed.wanted()


def test_the_layers_that_are_gathered_by_themselves():
    policy = make_policy("llama")
    layers = list(policy.model.base_model.layers)

    def found(**plan):
        return fsdp.layers(policy, Sharding(**plan))

    assert found() == layers[::-1]
    assert found(layers=()) == []
    assert found(layers=("LlamaMLP",)) == [layer.mlp for layer in layers][::-1]
    largest = sum(one.numel() for one in layers[0].parameters())
    assert found(least=largest - 1)[:2] == layers[::-1]
    assert layers[0] not in found(least=largest)
    with pytest.raises(ValueError, match=r"got \['Else'\]; its layers are .*LlamaDecoderLayer"):
        found(layers=("Else", "LlamaMLP"))


@pytest.mark.parametrize("gone", [False, True])
def test_a_policy_gets_the_weights_of_its_learner(gone):
    policy = make_policy("gpt2")  # whose embeddings are its head
    learner = copy.deepcopy(policy)
    with torch.no_grad():
        for one in learner.parameters():
            one.add_(1.0)
    if gone:
        fsdp.give_up(policy)
        assert sum(one.numel() for one in policy.parameters()) == 0
    fsdp.fill(policy, learner)
    for one, other in zip(policy.parameters(), learner.parameters(), strict=True):
        assert torch.equal(one, other)
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    logits = [one.logits(torch.ones(1, 32)) for one in (policy, learner)]
    assert torch.equal(*logits)


def test_memory_that_runs_out_in_pieces_ends_the_run(monkeypatch):
    """The others are in the middle of a pass that this process has left: nobody can begin again."""
    monkeypatch.setattr(fsdp, "is_sharded", lambda module: True)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())

    def loss_of(rows, meter):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(torch.OutOfMemoryError, match=r"over 4 episodes.*lower micro_batch_size"):
        optimization.optimizer_step(optimizer, torch.arange(8), loss_of, OptimizerConfig(micro_batch_size=4), Meter())


def test_a_process_with_fewer_passes_makes_idle_ones(monkeypatch):
    """As many as the others, with a gradient of zero and no metrics."""
    monkeypatch.setattr(fsdp, "is_sharded", lambda module: True)
    monkeypatch.setattr(processes, "largest", lambda numbers: [one + 2 for one in numbers])
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before, passes, meter = model.weight.item(), [], Meter()

    def loss_of(rows, found):
        passes.append(rows.tolist())
        found.add(len(rows), {"rows": float(rows.sum())})
        return 0.25 * model.weight.sum() * len(rows)

    optimization.optimizer_step(optimizer, torch.arange(3), loss_of, OptimizerConfig(micro_batch_size=2), meter)
    assert passes == [[0, 1], [2], [0], [0]]
    assert meter.means()["rows"] == pytest.approx((2 * 1 + 1 * 2) / 3), "the idle passes do not count"
    assert model.weight.item() == pytest.approx(before - 0.75)
