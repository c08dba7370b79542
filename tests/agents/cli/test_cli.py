"""The command line, as a user types it."""

import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import agents
from agents.__main__ import COMMANDS, main
from agents.cli.options import Train
from agents.cli.parsing import parse, read_config
from agents.training import checkpoints
from tests.helpers import slow_but

SMALL = ["--device", "cpu", "--num-envs", "8", "--episodes-per-update", "8"]
SMALL += ["--max-new-tokens", "6", "--eval-episodes", "10"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short run, made through the command line."""
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    main(["train", "--total-timesteps", "150", "--output", str(folder), "--epochs", "1", "--seed", "3", *SMALL])
    return folder


def test_train_leaves_what_the_readme_says(run):
    names = {path.name for path in run.iterdir()}
    assert {
        "checkpoints",
        "metrics.jsonl",
        "evaluations.jsonl",
        "samples",
        "tensorboard",
        "learning_curve.png",
        "samples.html",
        "summary.json",
    } <= names
    summary = json.loads((run / "summary.json").read_text())
    assert summary["timesteps"] >= 150
    assert summary["before"]["held_out_name"] == "vader"
    state = json.loads((checkpoints.find(run).path / "agent.json").read_text())
    assert (state["config"]["epochs"], state["seed"], state["config"]["num_envs"]) == (1, 3, 8)


def test_evaluate_and_generate_read_a_run(run, capsys):
    main(["evaluate", "--run", str(run), "--episodes", "10", "--json", "--device", "cpu"])
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 10
    assert found["score_low"] <= found["score"] <= found["score_high"]
    main(["evaluate", "--model", "tiny", "--episodes", "10", "--split", "validation", "--device", "cpu"])
    assert "validation: score" in capsys.readouterr().out
    main(["generate", "--run", str(run), "-n", "2", "--max-new-tokens", "5", "--device", "cpu", "Once upon a time"])
    printed = capsys.readouterr().out
    assert printed.count("Once upon a time") == 2
    main(["generate", "--run", str(run), "-n", "2", "--max-new-tokens", "5", "--device", "cpu", "Once upon a time"])
    assert capsys.readouterr().out == printed, "the same seed writes the same"


@pytest.mark.slow
def test_a_run_is_evaluated_in_its_environment_at_its_temperature_unless_options_say_otherwise(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--temperature", "0.3", "--payout", "sparse", "--reward", "sentiment", *SMALL]
    main(["train", "--total-timesteps", "40", "--samples", "0", "--output", str(folder), *words])
    own = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    assert (own["split"], own["sampling"]["temperature"]) == ("test", 0.3)
    capsys.readouterr()

    def found(*more):
        main(["evaluate", "--run", str(folder), "--episodes", "10", "--device", "cpu", "--json", *more])
        return json.loads(capsys.readouterr().out)

    plain = found()
    assert (plain["env"], plain["task"], plain["split"], plain["temperature"]) == ("TextGen-v0", "stories", "test", 0.3)
    assert plain["score"] == own["score"]
    assert found("--env", "TextGen-v0") == plain
    warmer = found("--temperature", "1.0")
    assert (warmer["temperature"], warmer["response_length"]) == (1.0, 6.0)
    assert warmer["score"] != plain["score"]
    assert found("--max-new-tokens=3")["response_length"] <= 3.0
    assert 0 <= found("--reward", "length")["score"] <= 1
    other = found("--env", "TextGen/Sentiment-v0", "--max-new-tokens", "3")
    assert (other["env"], other["task"]) == ("TextGen/Sentiment-v0", "sentiment")
    main(["evaluate", "--run", str(folder), "--episodes", "10", "--device", "cpu"])
    assert "TextGen-v0 (stories), test: score" in capsys.readouterr().out
    once = ["--run", str(folder), "-n", "1", "--max-new-tokens", "5", "--device", "cpu", "Once"]
    printed = []
    for more in ([], ["--temperature", "0.3"], ["--temperature", "1.0"]):
        main(["generate", *once, *more])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    main(["generate", "--model", *once[1:]])
    assert capsys.readouterr().out == printed[0], "a run's folder is a model, too"
    with pytest.raises(SystemExit):
        main(["evaluate", "--model", str(folder)])
    assert f"which is the folder of a run: --run {folder}" in capsys.readouterr().err
    compared = ["compare", "--episodes", "10", "--folds", "2", "--max-new-tokens", "4", "--json", "--device", "cpu"]
    compared += ["--output", str(tmp_path / "compared"), "--models", "tiny", str(folder)]
    tables = []
    for more in ([], ["--temperature", "0.3"], ["--temperature", "1.0"]):
        main([*compared, *more])
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_a_prompts_file(tmp_path, suffix, capsys):
    texts = [f"Fox {number} went to the river one day and had a lot of fun there." for number in range(100)]
    file = tmp_path / f"prompts{suffix}"
    file.write_text("\n".join(texts if suffix == ".txt" else [json.dumps({"story": text}) for text in texts]))
    words = ["--data", str(file), "--prompt-tokens", "9", "--total-timesteps", "40", *SMALL]
    field = ["--prompt", "story"] if suffix == ".jsonl" else []
    main(["train", "--algorithm", "reinforce", "--output", str(tmp_path / "run"), *words, *field])
    assert "reinforce on TextGen-v0 (dataset)" in capsys.readouterr().out


COLUMNS = {"prompt": "q", "references": ["a", "b"]}


@pytest.mark.parametrize("command", slow_but({"train"}, ["train", "sft", "evaluate", "compare", "generate"]))
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--task", "copy"], {"task": "copy"}),
        (["--task", '{"copy": {"level": 2}}'], {"task": {"copy": {"level": 2}}}),
        (["--data", "a.csv"], {"task": {"dataset": {}}, "data": "a.csv"}),
        (
            ["--data", "a.csv", "--prompt", "q", "--references", '["a", "b"]'],
            {"task": {"dataset": COLUMNS}, "data": "a.csv"},
        ),
        (
            ["--data", '{"train": "a.csv"}', "--template", "Q: {q}\\nA:", "--references", "a"],
            {"task": {"dataset": {"template": "Q: {q}\nA:", "references": "a"}}, "data": {"train": "a.csv"}},
        ),
        (["--env", "TextGen/GSM8K-v0", "--data", "folder"], {"data": "folder"}),
        (
            ["--env", "TextGen/GSM8K-v0", "--data", "folder", "--template", "{question}"],
            {"task": {"gsm8k": {"template": "{question}"}}, "data": "folder"},
        ),
        (
            ["--task", '{"dataset": {"limit": 9}}', "--data", "a.csv", "--prompt-tokens", "3"],
            {"task": {"dataset": {"limit": 9, "prompt_tokens": 3}}, "data": "a.csv"},
        ),
        (["--reward", "my_module:score"], {"reward": "my_module:score"}),
    ],
)
def test_every_command_says_what_the_environment_is(command, words, expected):
    more = ["--models", "tiny", "tiny"] if command == "compare" else []
    arguments = parse(command, COMMANDS[command][0], [*words, *more])
    assert arguments.env_kwargs() == {"payout": "immediate", **expected}
    again = parse("sft", COMMANDS["sft"][0], arguments.words())
    assert again.env_kwargs() == arguments.env_kwargs()


@pytest.mark.parametrize("command", slow_but({"train", "generate"}, sorted(COMMANDS)))
def test_help_groups_the_options_that_commands_share(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    groups = re.findall(r"^\W+(\w+) options\b", shown, re.MULTILINE)
    assert ("Environment" in groups) == (command != "reward-model")
    assert len(re.findall(r"^\W --env STR", shown, re.MULTILINE)) == (command != "reward-model")
    assert len(re.findall(r"^\W --models? ", shown, re.MULTILINE)) == 1


@pytest.mark.slow
def test_a_reward_and_data_of_ones_own_in_every_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_scores.py").write_text(
        "def score(example, response):\n    return float(len(response) > 9) + 10 * len(example.references)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("sums.csv").write_text("q,a,b\n" + "".join(f"{n}+{n},{2 * n},it is {2 * n}\n" for n in range(40)))
    words = ["--data", "sums.csv", "--template", "Q: {q}\\nA:", "--references", '["a", "b"]']
    words += ["--reward", "my_scores:score", "--max-new-tokens", "6", "--device", "cpu"]
    small = ["--epochs", "1", "--eval-episodes", "4"]
    main(["sft", *words, *small, "--output", "sft"])
    assert "score +20" in capsys.readouterr().out
    few = ["--num-envs", "4", "--episodes-per-update", "4", "--eval-during", "0", "--total-timesteps", "8"]
    main(["train", *words, *small, *few, "--init", "sft", "--output", "run"])
    assert "ppo on TextGen-v0 (dataset)" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path.parent)  # a run knows its data from everywhere
    main(["train", "--resume", str(tmp_path / "run"), "--total-timesteps", "16"])
    monkeypatch.chdir(tmp_path)
    Path("more.csv").write_text("q,a,b\n" + "".join(f"{n}-{n},0,none\n" for n in range(40)))
    other = ["--data", "more.csv", "--data-changed", "--output", "rows.jsonl"]
    main(["evaluate", "--run", "run", *other, "--episodes", "4"])
    assert "-" in json.loads(Path("rows.jsonl").read_text().splitlines()[0])["prompt"]
    main(["evaluate", *words, "--episodes", "4"])
    capsys.readouterr()
    main(["compare", *words, "--models", "tiny", "sft", "--episodes", "4", "--folds", "2", "--output", "compared"])
    assert '--data sums.csv --references \'["a", "b"]\'' in html.unescape(Path("compared/comparison.html").read_text())
    capsys.readouterr()
    main(["generate", *words, "--run", "sft", "--prompts", "2", "-n", "2"])
    said = capsys.readouterr().out
    assert said.count("score +2") == 4
    assert len(re.findall(r"Q: (\d+)\+\1", said)) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--algorithm", "pppo"], "Expected --algorithm to be one of"),
        (["train", "--algorithm", "ActorCrtic"], "Did you mean 'actor_critic'?"),
        (["train", "--env", "CartPole-v1", "--device", "cpu"], "Expected the id of a text environment"),
        (["sft", "--env", "CartPole-v1", "--device", "cpu"], "Expected the id of a text environment"),
        (["evaluate", "--env", "CartPole-v1", "--device", "cpu"], "Expected the id of a text environment"),
        (["train", "--model", "no/such/folder/here"], "Expected a bundled model"),
        (["train", "--env", "TextGen-v9", "--device", "cpu"], "TextGen"),
        (["train", "--reward", "sentimnt", "--device", "cpu"], "Did you mean 'sentiment'?"),
        (["train", "--payout", "later", "--device", "cpu"], "Expected payout to be"),
        (
            ["train", "--payout", '{"every": 0}', "--device", "cpu"],
            "Expected the number of tokens of payout 'every' to be from 1",
        ),
        (["train", "--payout", "{every", "--device", "cpu"], "Expected a name or JSON"),
        (["train", "--max-new-tokens", "-3", "--device", "cpu"], "Expected max_new_tokens to be at least 1"),
        (["train", "--data", "nowhere.jsonl", "--device", "cpu"], "Expected a file that can be read"),
        (["train", "--gamma", "1.3"], "Expected gamma in [0, 1], got 1.3"),
        (["train", "--references", "answer", "--device", "cpu"], "Expected --data, or a --task that reads data, with"),
        (["sft", "--task", "copyy", "--device", "cpu"], "Did you mean 'copy'?"),
        (
            ["train", "--task", "copy", "--data", "a.csv", "--device", "cpu"],
            "with a task that reads data",
        ),
        (["train", "--env", "TextGen/GSM8K-v0", "--prompt", "q", "--data", "a.csv"], "got 'prompt'"),
        (["evaluate", "--env", "TextGen/SQuAD-v0", "--device", "cpu"], "Expected data for TextGen/SQuAD-v0"),
        (["train", "--reward", "no_such_module:score", "--device", "cpu"], "could not be imported"),
        (["train", "--data", '{"train": ', "--device", "cpu"], "Expected a name or JSON"),
        (["generate", "--data", "a.csv", "Once"], "Expected texts to continue, or"),
        (["evaluate", "--run", "nowhere"], "Expected the folder of a run"),
        (["generate", "--model", "nowhere/at/all"], "Expected a bundled model"),
    ],
)
def test_bad_input_says_what_was_expected(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code not in (0, None)
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_written_over(run, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--output", str(run), *SMALL])
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "sft", "reward-model"])
def test_nothing_is_written_among_the_files_of_somebody_else(command, tmp_path, capsys):
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear reader")
    words = [command, "--device", "cpu", *(["--pairs", "pairs.jsonl"] if command == "reward-model" else [])]
    for output, message in ((tmp_path, "which holds 'letter.txt'"), (letter, "which is a file")):
        with pytest.raises(SystemExit):
            main([*words, "--output", str(output)])
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("PPO", "ppo"), ("ActorCritic", "actor_critic"), ("best-of-n", "best_of_n"), ("REINFORCE", "reinforce")],
)
def test_an_algorithm_may_be_written_like_its_class(name, algorithm):
    assert parse("train", Train, ["--algorithm", name]).algorithm == algorithm


def test_no_command_shows_the_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert "train,sft,evaluate,compare,generate" in shown
    assert "error: Expected a command of python -m agents, got none." in shown
    for line in (
        "  train         Train a language model in an environment.",
        "  generate      Print continuations: of texts, or",
    ):
        assert line in shown
    with pytest.raises(SystemExit) as stopped:
        main(["evalute"])
    assert stopped.value.code == 2
    assert "got 'evalute'. Did you mean 'evaluate'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "error" not in capsys.readouterr().out


def test_options_are_read_and_shown_before_torch_is_imported():
    """And `import agents` gives the scores their names without it."""
    code = (
        "import contextlib, sys\n"
        "import agents, textenvs\n"
        "from agents.__main__ import COMMANDS, main\n"
        "for words in (['--help'], *([name, '--help'] for name in COMMANDS), ['evaluate', '--episodse', '3']):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main(words)\n"
        "assert {'lm', 'preference', 'dpo', 'classifier', 'bertscore'} <= set(textenvs.list_rewards())\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "assert agents.advantages.gae and 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120, capture_output=True)


def test_every_public_name_of_agents_is_there():
    for name in agents.__all__:
        assert getattr(agents, name) is not None
    assert set(agents.__all__) <= set(dir(agents))
    with pytest.raises(AttributeError, match="no attribute 'PPPO'"):
        _ = agents.PPPO


def test_help_of_an_algorithm_has_its_own_settings(capsys):
    for words, own in ((["--help"], False), (["--algorithm", "reinforce", "--help"], True)):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *words])
        assert stopped.value.code == 0
        shown = capsys.readouterr().out
        assert "--kl-coef" in shown
        assert ("--baseline-decay" in shown) is own
        assert "--algorithm NAME --help" in shown


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_a_run_with_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    words = ["train", "--total-timesteps", "100000000", "--output", str(folder), *SMALL]
    command = [sys.executable, "-m", "agents", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. The checkpoint of" in errors
    assert "Traceback" not in errors
    assert checkpoints.find(folder).updates >= 2


def test_bonuses_are_json_on_the_command_line_and_a_dict_in_a_file(tmp_path):
    spec = {"novelty": 0.1, "diversity": {"over": "batch"}}
    assert json.loads(parse("train", Train, ["--bonuses", json.dumps(spec)]).bonuses) == spec
    (tmp_path / "config.json").write_text(json.dumps({"bonuses": spec, "gamma": 0.5}))
    arguments = parse("train", Train, ["--config", str(tmp_path / "config.json")])
    assert json.loads(arguments.bonuses) == spec
    assert arguments.settings.gamma == 0.5
    with pytest.raises(SystemExit):
        main(["train", "--bonuses", '{"novlty": 1}', "--output", str(tmp_path / "run")])


def last_row(folder):
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: value for name, value in row.items() if "second" not in name}


@pytest.mark.parametrize("suffix", slow_but({".yaml"}, [".json", ".yaml"]))
def test_a_config_file_gives_the_run_of_the_command_line(tmp_path, suffix):
    words = ["--algorithm", "reinforce", "--baseline", "leave_one_out", "--payout", '{"every": 2}', "--seed", "4"]
    main(["train", "--total-timesteps", "80", "--output", str(tmp_path / "one"), *words, *SMALL])
    given = {
        "algorithm": "reinforce", "baseline": "leave_one_out", "payout": {"every": 2}, "seed": 9, "device": "cpu",
        "num_envs": 8, "episodes_per_update": 8, "max_new_tokens": 6, "eval_episodes": 10, "total_timesteps": 80,
    }  # fmt: skip
    file = tmp_path / f"run{suffix}"
    file.write_text(json.dumps(given))  # JSON is YAML
    folder = tmp_path / "two"
    main(["train", "--config", str(file), "--output", str(folder), "--seed", "4"])  # the command line wins
    assert last_row(folder) == last_row(tmp_path / "one")
    resolved = json.loads((folder / "config.json").read_text())
    assert (resolved["seed"], resolved["baseline"], resolved["kl_coef"]) == (4, "leave_one_out", 0.015)
    main(["train", "--config", str(folder / "config.json"), "--output", str(tmp_path / "three")])
    assert last_row(tmp_path / "three") == last_row(folder)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("2E+3", 2000.0), ("-1e2", -100.0), (".5", 0.5), ("3.", 3.0), ("1.5e3", 1500.0), ("7", 7)],
)
def test_numbers_of_yaml_are_those_of_its_present_version(tmp_path, written, value):
    file = tmp_path / "run.yaml"
    file.write_text(f"learning_rate: {written}\nreward: {{length: {{weight: {written}}}}}\n")
    given = read_config(file)
    assert (given["learning_rate"], json.loads(given["reward"])) == (value, {"length": {"weight": value}})
    assert type(given["learning_rate"]) is type(value)


def test_other_words_of_yaml_stay_texts(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("output: 2026-11-30\nmodel: e5\nreward: '1e-4'\nlora: ~\n")
    assert read_config(file) == {"output": Path("2026-11-30"), "model": "e5", "reward": "1e-4", "lora": None}


def test_learning_rate_in_yaml(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-4\n")
    assert parse("train", Train, ["--config", str(file)]).settings.learning_rate == 1e-4


def test_ends_of_turns_and_chat_templates_are_options(tmp_path):
    words = ["--stop", '["<eos>", "x"]', "--chat-template", '{"system": "Be brief."}']
    given = {"stop": ["<eos>", "x"], "chat_template": {"system": "Be brief."}}
    kwargs = parse("train", Train, words).env_kwargs()
    assert {name: kwargs[name] for name in given} == given
    file = tmp_path / "run.json"
    file.write_text(json.dumps(given))
    assert parse("train", Train, ["--config", str(file)]).env_kwargs() == kwargs
    plain = parse("train", Train, ["--stop", "<eos>", "--chat-template", "true"]).env_kwargs()
    assert (plain["stop"], plain["chat_template"]) == ("<eos>", True)
    assert not {"stop", "chat_template"} & set(parse("train", Train, []).env_kwargs())
    with pytest.raises(ValueError, match="Expected --chat-template to be true or JSON, got 'yes'"):
        parse("train", Train, ["--chat-template", "yes"]).env_kwargs()


def test_generate_stops_where_it_is_told(capsys):
    words = ["generate", "-n", "1", "--max-new-tokens", "30", "--device", "cpu", "--deterministic", "Once upon a time"]
    main(words)
    whole = capsys.readouterr().out
    main([*words[:-1], "--stop", "a", words[-1]])
    stopped = capsys.readouterr().out
    assert len(stopped) < len(whole)
    with pytest.raises(SystemExit):
        main([*words[:-1], "--chat-template", "true", words[-1]])
    assert "Expected a tokenizer with a chat template" in capsys.readouterr().err


def test_output_in_an_old_encoding_loses_characters_and_nothing_else(monkeypatch):
    pipe = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", pipe)
    main(["generate", "-n", "1", "--max-new-tokens", "1", "--device", "cpu", "Łódź é"])
    pipe.flush()
    printed = pipe.buffer.getvalue().decode("cp1252")
    assert "?ód? é" in printed


def test_sft_and_then_train(tmp_path, capsys):
    folder = tmp_path / "sft"
    words = ["--demonstrations", "16", "--epochs", "1", "--eval-episodes", "10", "--max-new-tokens", "6"]
    main(["sft", "--output", str(folder), "--device", "cpu", *words])
    assert "epoch 1: perplexity" in capsys.readouterr().out
    main(["train", "--init", str(folder), "--total-timesteps", "40", "--output", str(tmp_path / "run"), *SMALL])
    main(
        ["train", "--init", str(tmp_path / "run"), "--total-timesteps", "40", "--output", str(tmp_path / "on"), *SMALL]
    )
    assert json.loads((tmp_path / "on" / "config.json").read_text())["init"] == str(tmp_path / "run")
    capsys.readouterr()
    main(["generate", "--run", str(folder), "-n", "1", "--max-new-tokens", "4", "--device", "cpu", "Once upon a time"])
    assert "Once upon a time" in capsys.readouterr().out
    main(["evaluate", "--model", str(folder), "--episodes", "10", "--device", "cpu"])
    assert "TextGen-v0 (stories), test: score" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", "--run", str(folder)])
    assert f"which is one of sft: --model {folder}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"gama": 0.9}', "Did you mean 'gamma'?"),
        ('{"gamma": 1.3}', "Expected gamma in [0, 1], got 1.3"),
        ('{"algorithm": "pppo"}', "Expected --algorithm to be one of"),
        ("[1]", "to hold a JSON object"),
        ("{", "could not be read"),
    ],
)
def test_a_bad_config_file_says_so(tmp_path, content, message, capsys):
    file = tmp_path / "run.json"
    file.write_text(content)
    with pytest.raises(SystemExit):
        main(["train", "--config", str(file)])
    assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["train", "--init", str(tmp_path / "nowhere")])
    assert "with a policy in it" in capsys.readouterr().err


def test_a_run_is_evaluated_before_during_and_after_and_any_checkpoint_again(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--algorithm", "reinforce", "--total-timesteps", "150", "--eval-during", "1", "--checkpoint-seconds", "0"]
    main(["train", *words, "--eval-top-k", "2", "--output", str(folder), *SMALL])
    rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    end = rows[-1]["timesteps"]
    assert [row["split"] for row in rows] == ["validation", "test", "validation", "validation", "test"]
    assert [row["timesteps"] for row in rows[:2]] == [0, 0]
    assert 0 < rows[2]["timesteps"] < end == rows[3]["timesteps"]
    assert {row["sampling"]["top_k"] for row in rows} == {2}
    for row in rows:
        file = folder / "samples" / f"{row['split']}-{row['timesteps']:012d}.jsonl"
        episodes = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(episodes) == row["episodes"] == 10
        assert sum(one["score"] for one in episodes) / 10 == pytest.approx(row["score"], abs=1e-6)
        assert sum(one["held_out"] for one in episodes) / 10 == pytest.approx(row["held_out"], abs=1e-6)
        assert all(sum(one["token_rewards"]) == pytest.approx(one["score"], abs=1e-5) for one in episodes)
    best = checkpoints.find(folder, "best")
    assert best.score == max(row["score"] for row in rows if row["split"] == "validation")
    capsys.readouterr()
    again = ["evaluate", "--run", str(folder), "--split", "validation", "--episodes", "10", "--top-k", "2", "--json"]
    for which, number in (("best", best.number), ("last", checkpoints.listed(folder)[-1].number)):
        outputs = []
        for name in (which, str(number)):
            main([*again, "--device", "cpu", "--checkpoint", name, "--output", str(tmp_path / "episodes.jsonl")])
            outputs.append(json.loads(capsys.readouterr().out))
        assert outputs[0] == outputs[1]
        expected = best.score if which == "best" else rows[3]["score"]
        assert outputs[0]["score"] == expected, "what the run itself found"
        assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 10
    with pytest.raises(SystemExit):
        main([*again, "--checkpoint", "77"])
    assert "'best' or one of number" in capsys.readouterr().err
