"""The compiled update: the model's states and gradients but for rounding, and nothing lost where it does not go.

Most tests run the two graphs as they are, which takes no compiler and no time: how they are cut out, what is kept
between them and whose gradients come back is the same. One compiles them.
"""

import copy
import os
import subprocess
import sys

import pytest
import torch
import transformers

from agents import Policy, compiled_trunk, decode, linear
from agents.__main__ import main
from benchmarks.faults import RUN, outcome
from tests.agents.conftest import ARCHITECTURES, SHAPES, make_policy, word_tokenizer
from tests.agents.test_compile import needs_compiler, said  # noqa: F401
from tests.agents.test_resume import finished


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(compiled_trunk, "_COMPILED", {})


@pytest.fixture
def interpreted(monkeypatch):
    """The graphs that would have been compiled."""
    graphs = []

    def library(graph):
        graphs.append(graph)
        return lambda given: list(graph(*given))

    monkeypatch.setattr(compiled_trunk, "_library", library)
    return graphs


def batch(policy, rows=3, length=9, seed=0):
    """Rows, where in them actions stand, and which of them count."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(policy.tokenizer.vocab_size, (rows, length), generator=generator)
    positions = torch.arange(1, length).repeat(rows, 1)
    mask = torch.rand(rows, length - 1, generator=generator) < 0.7
    mask[:, 0] = True
    return input_ids, positions, mask


def learned(policy, rows=3, length=9, seed=0):
    """A loss that reads all that a policy says of actions, and the gradient of every weight."""
    policy.zero_grad(set_to_none=True)
    loss = policy.loss(
        *batch(policy, rows, length, seed),
        lambda now, at: (now.log_probs * (1 + at[1]) + 0.3 * now.entropies + now.values.square()).sum(),
    )
    loss.backward()
    return loss.detach(), {name: one.grad for name, one in policy.named_parameters()}


def agree(policy, plain, **shape):
    (loss, gradients), (expected, of_plain) = learned(policy, **shape), learned(plain, **shape)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == of_plain.keys()
    most = max(float(one.abs().max()) for one in of_plain.values() if one is not None)
    for name, gradient in gradients.items():
        if of_plain[name] is None:
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, of_plain[name], atol=1e-5 * most, rtol=1e-5, msg=name)


def both(kind="llama", seed=1, **settings):
    plain = make_policy(kind, seed=seed).adapt(**settings)
    return copy.deepcopy(plain).adapt(compile=True), plain


@needs_compiler
def test_compiled_gradients_are_the_models_own_but_for_rounding(said):  # noqa: F811
    policy, plain = both()
    for shape in ((3, 9), (1, 30), (5, 2), (8, 17)):
        agree(policy, plain, rows=shape[0], length=shape[1])
    passes = policy._compiled_trunk._passes
    assert passes is not None
    assert not said
    first, again = learned(policy), learned(copy.deepcopy(policy))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(one, again[1][name]) for name, one in first[1].items())
    with torch.no_grad():
        for one, other in zip(policy.parameters(), plain.parameters(), strict=True):
            one.mul_(1.1)  # as an optimiser does
            other.mul_(1.1)
    agree(policy, plain)
    assert policy._compiled_trunk._passes is passes
    assert len(compiled_trunk._COMPILED) == 1, "the copy shares it"


@pytest.mark.parametrize(
    ("kind", "onednn"), [*((kind, False) for kind in ARCHITECTURES), ("llama", True), ("gpt2", True)]
)
def test_gradients_of_architectures(kind, onednn, interpreted, monkeypatch, said):  # noqa: F811
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(linear, "ONEDNN_IS_FASTER", onednn)
    monkeypatch.setattr(linear, "_LEAST_WEIGHTS_OF_ROWS", 1)
    policy, plain = both(kind)
    agree(policy, plain)
    agree(policy, plain, rows=6, length=21, seed=1)
    assert not said
    assert len(interpreted) == 2
    for graph in interpreted:
        assert ("onednn_linear" in graph.code) == onednn
        assert graph.code.count("flash_attention_for_cpu") >= 2, "attention is one operation, without a mask"
        assert "index_put" not in graph.code, "of which threads would decide the order"


def test_what_is_frozen_gets_no_gradient(interpreted):
    policy, plain = both(freeze=1)
    agree(policy, plain)
    assert policy._compiled_trunk._passes is not None
    assert policy.model.model.layers[0].mlp.up_proj.weight.grad is None
    policy.model.model.layers[1].requires_grad_(False)  # one more, later
    plain.model.model.layers[1].requires_grad_(False)
    agree(policy, plain)
    assert len(compiled_trunk._COMPILED) == 2


def test_a_critic_of_its_own_shares_what_is_compiled(interpreted):
    policy, plain = both()
    for one in (policy, plain):
        one.separate_critic()
        with torch.no_grad():
            one.critic.layers[0].mlp.up_proj.weight.mul_(1.5)
    agree(policy, plain)
    assert policy._compiled_critic._passes is policy._compiled_trunk._passes is not None


def test_a_trunk_that_changes_is_compiled_again(interpreted):
    policy, plain = both()
    agree(policy, plain)
    for one in (policy, plain):
        torch.manual_seed(7)
        one.model.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 48, bias=False).eval()
    agree(policy, plain)
    for one in (policy, plain):
        one.model.model.norm.weight = torch.nn.Parameter(torch.full((32,), 0.5))
    agree(policy, plain)
    assert policy._compiled_trunk._passes is not None


def test_rows_behind_a_window_go_as_before(interpreted):
    config = transformers.MistralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        sliding_window=12, **SHAPES,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = Policy(transformers.MistralForCausalLM(config), word_tokenizer())
    policy = copy.deepcopy(plain).adapt(compile=True)
    agree(policy, plain, length=12)
    assert policy._compiled_trunk._passes is None, "13 tokens are checked, and differ"
    config.sliding_window = 40
    plain = Policy(transformers.MistralForCausalLM(config), word_tokenizer())
    policy = copy.deepcopy(plain).adapt(compile=True)
    for length in (39, 40, 41, 60):
        agree(policy, plain, length=length)
    assert policy._compiled_trunk._passes is not None


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"precision": "bfloat16"}, {"lora": 2}])
def test_what_is_not_compiled_goes_on_as_before(settings, interpreted, said):  # noqa: F811
    policy, plain = both(**settings)
    (loss, gradients), (expected, of_plain) = learned(policy), learned(plain)
    assert torch.equal(loss, expected)
    for name, gradient in gradients.items():
        assert gradient is of_plain[name] is None or torch.equal(gradient, of_plain[name])
    assert not interpreted
    assert not said


def test_dropout_and_hooks_are_not_compiled_away(interpreted, said):  # noqa: F811
    policy, plain = both()
    calls = []
    policy.model.model.layers[0].register_forward_hook(lambda *of: calls.append(1))
    for count in (1, 2):
        agree(policy, plain)
        assert len(calls) == count
    assert not interpreted
    policy, _ = both("gpt2")
    expected = learned(policy)[0]
    policy.model.train()
    torch.manual_seed(0)
    assert abs(float(learned(policy)[0] - expected)) > 1e-3
    policy.model.eval()
    torch.testing.assert_close(learned(policy)[0], expected)
    with torch.no_grad():
        evaluated = policy.evaluate(*batch(policy))
    assert torch.equal(evaluated.log_probs, both("gpt2")[1].evaluate(*batch(policy)).log_probs)
    assert not said


def test_other_kinds_of_models_go_on_as_before(interpreted, said):  # noqa: F811
    for config in (
        {"model_type": "t5", "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2},
        {"model_type": "lstm_lm", "hidden_size": 16},
    ):
        plain = Policy.from_config(config, word_tokenizer(), device="cpu")
        assert torch.equal(learned(copy.deepcopy(plain).adapt(compile=True))[0], learned(plain)[0])
    assert not interpreted
    assert not said


def test_without_a_compiler_it_says_so_once_and_goes_on(monkeypatch, said):  # noqa: F811
    def no_compiler(*args, **kwargs):
        raise FileNotFoundError("g++")

    monkeypatch.setattr(torch._inductor, "aot_compile", no_compiler)
    policy, plain = both()
    for _ in range(2):
        assert torch.equal(learned(policy)[0], learned(plain)[0])
    (warning,) = said
    assert "LlamaModel learns without being compiled (FileNotFoundError: g++)" in warning
    assert "needs a C++ compiler" in warning


def test_numbers_that_differ_are_refused(monkeypatch, said):  # noqa: F811
    policy, plain = both()
    expected = learned(plain)[0]
    trunk = plain.model.base_model
    weights = decode.weights_of(trunk)
    cut = compiled_trunk._cut(compiled_trunk._joint(trunk, weights), len(weights))
    monkeypatch.setattr(compiled_trunk, "_joint", lambda *of: None)
    monkeypatch.setattr(compiled_trunk, "_cut", lambda *of: cut)
    for which, place, change, message in (
        (0, 0, lambda one: one * 1.001, "its states differ from the model's own"),
        (0, -1, lambda one: one * 1.001, "its gradients differ from the model's own"),
        (1, 0, lambda one: one * 1.001, "its gradients differ from the model's own"),
        (1, -1, lambda one: None, "other weights have a gradient"),
        (1, -1, lambda one: one, None),
    ):

        def library(graph, which=which, place=place, change=change):
            def run(given):
                outputs = list(graph(*given))
                if graph is cut[which]:
                    outputs[place] = change(outputs[place])
                return outputs

            return run

        monkeypatch.setattr(compiled_trunk, "_library", library)
        monkeypatch.setattr(compiled_trunk, "_COMPILED", {})
        tried = copy.deepcopy(policy)
        found = learned(tried)[0]
        assert (tried._compiled_trunk._passes is None) == (message is not None)
        if message is not None:
            assert message in said.pop()
            assert torch.equal(found, expected)


@needs_compiler
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.usefixtures("one_thread")
def test_a_compiled_run_that_is_killed_goes_on_to_the_same_numbers(tmp_path, said):  # noqa: F811
    """In another process, which compiles again, and whose strings have other hashes."""
    run = [*RUN, "--compile", "--eval-during", "0"]
    main([*run, "--output", str(tmp_path / "straight")])
    assert len(compiled_trunk._COMPILED) == 1
    assert not said
    assert finished([*run, "--output", str(tmp_path / "killed")], moment="update", call=14) < 0
    command = ["from benchmarks.faults import play", f"play(['train', '--resume', {str(tmp_path / 'killed')!r}])"]
    subprocess.run([sys.executable, "-c", "; ".join(command)], env={**os.environ, "PYTHONHASHSEED": "1"}, check=True)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "straight")
