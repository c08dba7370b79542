"""The training loop and its checkpoints: nothing that was learned is lost."""

import itertools
import json
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
import transformers

from agents import PPO, REINFORCE, Agent, BestOfN, Policy, load
from agents.training import agent as training
from agents.training import alarm
from agents.training.agent import Algorithm
from agents.training.schedules import adapted_kl_coef, limited_kl_coef
from tests.agents.helpers import change, lanes, make_policy, small_agent
from textenvs import RewardError, TextGenEnv, make_tokenizer

SMALL = {"num_envs": 8, "episodes_per_update": 8}
KWARGS = {"max_new_tokens": 6}


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


def make_stories_policy():
    """A random one-layer model over the stories' vocabulary: as good as any where language does not matter."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = make_tokenizer("stories")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape, vocab_size=tokenizer.vocab_size, max_position_embeddings=128)
    return Policy(transformers.LlamaForCausalLM(config), tokenizer)


def test_random_weights_without_a_kl_price_are_not_compared_with_their_start(monkeypatch):
    """Nothing asks for the reference's log-probs; a price, a bonus or a trained start model does."""
    asked = []
    seen = training.reference_log_probs
    monkeypatch.setattr(training, "reference_log_probs", lambda *a, **k: asked.append(1) or seen(*a, **k))

    def row_of(model, **settings):
        rows = []
        agent = REINFORCE(model, "TextGen/Length-v0", seed=0, device="cpu", **SMALL, **settings)
        agent.learn(1, on_update=rows.append)
        return rows[0]

    assert "kl" not in row_of("tiny")
    assert not asked
    assert "kl" in row_of("tiny", kl_coef=0.1)
    assert "kl" in row_of("tiny", bonuses={"kl": -0.1})
    assert len(asked) == 2
    assert "kl" in small_agent(kl_coef=0.0)._iterate(0.0), "a trained start model has a distance at any price"


def test_learn_save_load_predict(tmp_path):
    agent = small_agent(seed=3)
    start = weights(agent)
    agent.learn(100, folder=tmp_path)
    assert agent.timesteps >= 100
    assert not torch.equal(weights(agent), start)
    again = load(tmp_path, device="cpu")
    assert (again.timesteps, again.updates, again.seed, again.config) == (
        agent.timesteps, agent.updates, agent.seed, agent.config,
    )  # fmt: skip
    assert torch.equal(weights(again), weights(agent))
    observation, _ = gym.make("TextGen-v0", tokenizer=again.policy.tokenizer, **KWARGS).reset(seed=0)
    action, state = again.predict(observation, deterministic=True)
    assert state is None
    assert action == agent.predict(observation, deterministic=True)[0]
    row = torch.tensor(observation["input_ids"][None, : observation["attention_mask"].sum()])
    logits = again.policy.model(row).logits
    assert action == int(logits[0, -1].argmax())
    batch = {key: np.stack([value, value]) for key, value in observation.items()}
    assert again.predict(batch, deterministic=True)[0].tolist() == [action, action]


def test_the_folder_of_another_run_is_left_as_it_is(tmp_path):
    """Its logs and checkpoints stay; the run's own agent goes on in it: the same one, a loaded one, one that saved."""
    folder = tmp_path / "run"
    mine = small_agent(seed=3).learn(20, folder=folder)
    mine.learn(mine.timesteps + 1, folder=folder)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for other in (small_agent(seed=4), load(folder, device="cpu").algorithm("tiny", device="cpu", **SMALL)):
        with pytest.raises(ValueError, match=r"which holds another run: choose another, or go on with agents.load\("):
            other.learn(10**6, folder=folder)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="which holds another run"):
        small_agent(seed=4).learn(10**6, folder=tmp_path / "link")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    for place in (folder, folder / "checkpoints" / "00002"):
        again = load(place, device="cpu")
        again.learn(again.timesteps + 1, folder=folder)
    rows = [json.loads(line)["timesteps"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(set(rows))
    saved = small_agent(seed=4)
    saved.save(tmp_path / "saved")
    saved.learn(1, folder=tmp_path / "saved")


def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path):
    straight, stopped = small_agent(seed=1), small_agent(seed=1)
    rows_straight, rows_resumed = [], []
    run(straight, 4, rows_straight)
    run(stopped, 2, rows_resumed)
    stopped.save(tmp_path)
    resumed = load(tmp_path, device="cpu")
    run(resumed, 2, rows_resumed)
    plain = [
        [
            {key: row[key] for key in row if key != "tokens_per_second" and not key.startswith("seconds_")}
            for row in rows
        ]
        for rows in (rows_straight, rows_resumed)
    ]
    assert plain[0] == plain[1]
    assert torch.equal(weights(resumed), weights(straight))
    assert resumed.timesteps == straight.timesteps


class Enough(Exception):
    pass


def run(agent, updates, rows):
    count = [0]

    def on_update(row):
        rows.append(row)
        count[0] += 1
        if count[0] == updates:
            raise Enough

    with pytest.raises(Enough):
        agent.learn(10**9, on_update=on_update)


def test_seeds_decide_everything():
    rows = [[], [], []]
    for place, seed in enumerate((5, 5, 6)):
        run(small_agent(seed=seed), 2, rows[place])
    assert [row["score"] for row in rows[0]] == [row["score"] for row in rows[1]]
    assert [row["score"] for row in rows[0]] != [row["score"] for row in rows[2]]


def test_kl_to_the_start_model_begins_at_zero():
    rows = []
    run(small_agent(learning_rate=0.01), 3, rows)
    assert abs(rows[0]["kl"]) < 1e-4
    assert rows[-1]["kl"] > 0.01


def test_metrics_are_written_for_people_and_machines(tmp_path):
    small_agent().learn(100, folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = {"score", "held_out", "kl", "entropy", "response_length", "distinct_2", "tokens_per_second"}
    assert expected <= set(rows[0])
    assert [row["timesteps"] for row in rows] == sorted(row["timesteps"] for row in rows)
    assert list((tmp_path / "tensorboard").glob("events*"))
    files = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert not files & {".bin", ".pt", ".pth", ".pkl"}, "no pickles"


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (lambda: float("nan"), "gave nan"),
        (lambda: -np.inf, "gave -inf"),
        (lambda: "1.0", "gave '1.0' of type str"),
        (lambda: None, "gave None of type NoneType"),
        (lambda: np.zeros(2), r"gave array\(\[0., 0.\]\) of type ndarray"),
        (lambda: [][0], "raised IndexError"),
    ],
    ids=["nan", "inf", "string", "none", "shape", "raises"],
)
def test_a_reward_that_fails_in_mid_run_leaves_a_usable_checkpoint(tmp_path, failure, problem):
    calls = [0]

    def fails_later(example, response):
        calls[0] += 1
        return 0.5 if calls[0] < 70 else failure()

    agent = REINFORCE(
        make_stories_policy(), "TextGen-v0", env_kwargs={**KWARGS, "reward": fails_later, "payout": "sparse"}, **SMALL
    )
    with pytest.raises(
        RewardError, match=rf"'fails_later' {problem}(?s:.*)example: .*prompt=(?s:.*)response: '"
    ) as got:
        agent.learn(10**9, folder=tmp_path)
    assert got.value.example in agent.env.setting.pool.examples
    assert agent.updates > 0
    again = load(tmp_path, env="TextGen-v0", env_kwargs=KWARGS, device="cpu")
    assert again.updates == agent.updates
    assert torch.equal(weights(again), weights(agent)), "nothing that was learned is lost"
    again.learn(again.timesteps + 1)
    with pytest.raises(ValueError, match=r"Expected env_kwargs with 'reward', .*, env_kwargs={'reward': ...}\)"):
        load(tmp_path)


def test_arguments_that_no_checkpoint_can_hold_are_given_again(tmp_path):
    """The others come back by themselves."""

    def sea(example, response):
        return float("sea" in response)

    env_kwargs = {**KWARGS, "payout": "sparse", "reward": sea}
    agent = REINFORCE(make_stories_policy(), env_kwargs=env_kwargs, **SMALL)
    checkpoint = agent.save(tmp_path)
    assert load(tmp_path, env_kwargs={"reward": sea}, device="cpu").env_kwargs == env_kwargs
    again = load(tmp_path, env_kwargs={"reward": "length", "max_new_tokens": 3}, device="cpu")
    assert again.env_kwargs == {"max_new_tokens": 3, "payout": "sparse", "reward": "length"}
    with pytest.raises(ValueError, match=r"Expected env_kwargs with 'reward'"):
        load(tmp_path, env_kwargs={"max_new_tokens": 3}, device="cpu")
    change(checkpoint, env_id=None)
    with pytest.raises(ValueError, match=r"Expected env=, the environment of"):
        load(tmp_path, device="cpu")


CHANGING = {
    "sum": [
        {"normalised": "sentiment"},
        {"length": {"target": 4, "weight": {"linear": [0, 1]}}},
        {"vader": {"weight": {"constraint": {"at_least": 1.0, "rate": 0.5}}}},
    ]
}


def test_a_reward_that_changes_resumes_exactly(tmp_path):
    """Schedule, normaliser and constraint: each update goes on from where the one before left them."""
    env_kwargs = {**KWARGS, "reward": CHANGING}
    straight, stopped = (REINFORCE(make_stories_policy(), env_kwargs=env_kwargs, seed=4, **SMALL) for _ in range(2))
    rows = [straight._iterate(progress) for progress in (0.0, 0.3, 0.6)]
    stopped._iterate(0.0)
    checkpoint = stopped.save(tmp_path)
    resumed = load(tmp_path, device="cpu")
    assert resumed.env.setting.reward.state_dict() == stopped.env.setting.reward.state_dict()
    again = [resumed._iterate(progress) for progress in (0.3, 0.6)]
    untimed = [{name: one for name, one in row.items() if "second" not in name} for row in rows[1:] + again]
    assert untimed[:2] == untimed[2:]
    assert [row["reward/length/weight"] for row in rows] == pytest.approx([0.0, 0.3, 0.6])
    # What a row says was scored with what it says: the weights and moments of its own batch.
    for row in rows:
        mean, std = row["reward/normalised/mean"], max(row["reward/normalised/std"], 1e-3)
        assert row["score/normalised"] == pytest.approx((row["score/normalised/sentiment"] - mean) / std, abs=1e-6)
        terms = (("normalised", 1.0), ("length", row["reward/length/weight"]), ("vader", row["reward/vader/weight"]))
        assert row["score"] == pytest.approx(sum(row[f"score/{name}"] * weight for name, weight in terms), abs=1e-5)
    vader = [row["score/vader"] for row in rows]
    weights_of_vader = [row["reward/vader/weight"] for row in rows]
    assert weights_of_vader == pytest.approx([0.0, 0.5 * (1 - vader[0]), 0.5 * (2 - vader[0] - vader[1])])
    evaluated = resumed.make_env(2, split="test").setting.reward
    assert evaluated is not resumed.env.setting.reward
    assert evaluated.state_dict() == resumed.env.setting.reward.state_dict(), "evaluated as it is trained on"
    change(checkpoint, reward={"own": {}})
    with pytest.raises(ValueError, match="Expected the state of reward"):
        load(tmp_path, device="cpu")
    other = load(tmp_path, env="TextGen-v0", env_kwargs={**KWARGS, "reward": {"normalised": "length"}}, device="cpu")
    assert other.env.setting.reward.state_dict()["own"]["count"] == 0, "another reward starts anew"


def test_an_alarm_when_score_and_held_out_metric_part(tmp_path, caplog):
    agent = REINFORCE(make_stories_policy(), env_kwargs=KWARGS, **SMALL)
    said = [alarm.watch(agent.carried, 0.1 * step, 1 - 0.1 * step, 7) for step in range(alarm.ALARM_WINDOW - 1)]
    assert not any(said)
    agent.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert not caplog.records
    assert alarm.watch(again.carried, 5.0, -5.0, 8), "what came before the stop counts"
    assert alarm.watch(again.carried, 6.0, -6.0, 9)
    assert again.carried["alarm_at"] == 8
    assert len(caplog.records) == 1, "it is said once"
    assert "the score rises while the held-out metric falls" in caplog.text
    again.save(tmp_path)
    assert alarm.watch(load(tmp_path, device="cpu").carried, 7.0, -7.0, 10)
    assert len(caplog.records) == 1, "also in a run that goes on"
    fresh = REINFORCE(make_stories_policy(), env_kwargs=KWARGS, **SMALL)
    assert fresh._iterate(0.0)["alarm"] == 0.0


def test_a_held_out_metric_that_wavers_near_its_best_raises_no_alarm():
    """It has gained 0.8 since the first update: a fall of a tenth of that, 0.08, over the window is what counts."""
    for fall, alarmed in ((0.07, False), (0.09, True)):
        carried = {}
        alarm.watch(carried, 0.0, 0.1, 0)
        steps = alarm.ALARM_WINDOW
        said = [
            alarm.watch(carried, 0.1 + 0.01 * step, 0.9 - fall * (step / (steps - 1) - 0.5), step)
            for step in range(steps)
        ]
        assert said[-1] == alarmed
        assert ("alarm_at" in carried) == alarmed


def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    def interrupt(row):
        raise KeyboardInterrupt

    agent = small_agent()
    with pytest.raises(KeyboardInterrupt):
        agent.learn(10**9, folder=tmp_path, on_update=interrupt)
    assert load(tmp_path, device="cpu").updates == 1


@pytest.fixture
def heeds_ctrl_c():
    """Restores Ctrl-C: a process in the background of a shell ignores it, and these tests would never end there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_signal_ends_a_run_between_two_updates(tmp_path):
    """The first Ctrl-C waits for the update, and the handler from before comes back."""
    before = signal.getsignal(signal.SIGINT)
    agent, seen = small_agent(), []

    def interrupt(row):
        seen.append(row)
        signal.raise_signal(signal.SIGINT)
        seen.append("still here")

    with pytest.raises(KeyboardInterrupt):
        agent.learn(10**9, folder=tmp_path, on_update=interrupt)
    assert seen[1:] == ["still here"]
    assert load(tmp_path, device="cpu").updates == 1
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_second_signal_does_not_wait(tmp_path):
    agent, seen = small_agent(), []

    def interrupt(row):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        seen.append("still here")

    with pytest.raises(KeyboardInterrupt):
        agent.learn(10**9, folder=tmp_path, on_update=interrupt)
    assert not seen
    assert load(tmp_path, device="cpu").updates == 1


def test_environments_and_policies_that_do_not_fit_are_refused():
    policy = make_policy()
    with pytest.raises(ValueError, match="policy's tokenizer"):
        PPO(policy, gym.make_vec("TextGen-v0", num_envs=8, autoreset_mode="Disabled"), **SMALL).learn(10)
    with pytest.raises(ValueError, match="Expected the agent's gamma"):
        PPO("tiny", "TextGen-v0", env_kwargs={"payout": {"shaped": {"gamma": 0.9}}}, device="cpu", **SMALL)
    PPO("tiny", "TextGen-v0", env_kwargs={"payout": {"shaped": {"gamma": 0.9}}}, gamma=0.9, device="cpu", **SMALL)
    with pytest.raises(ValueError, match="textenvs environment"):
        PPO("tiny", gym.make("CartPole-v1"), device="cpu")
    for seed in (True, np.bool_(1), 1.5, "1"):
        with pytest.raises(TypeError, match="Expected seed to be a whole number of at least 0"):
            PPO("tiny", seed=seed, device="cpu")
    with pytest.raises(ValueError, match="Expected seed to be at least 0, got -1"):
        PPO("tiny", seed=-1, device="cpu")
    for first in ("TextGen-v0", gym.make("TextGen-v0")):
        with pytest.raises(ValueError, match="Expected a policy first and then an environment"):
            PPO(first, "tiny")
    with pytest.raises(TypeError, match="Did you mean 'gae_lambda'"):
        PPO("tiny", gae_lamda=0.9, device="cpu")


def test_an_environment_object_is_as_good_as_its_id():
    env = gym.make("TextGen-v0", payout="sparse", **KWARGS)
    agent = PPO("tiny", env, device="cpu", **SMALL)
    assert isinstance(agent, Agent)
    assert agent.env.num_envs == 8
    assert agent.env_kwargs["payout"] == "sparse"
    assert agent.env.setting.max_new_tokens == 6


def test_an_environment_that_its_id_does_not_make_is_refused():
    """The agent plays lanes made by the id: a wrapper, or another tokenizer, would be dropped without a word."""
    policy = Policy.from_pretrained("tiny", device="cpu")
    stories = gym.make("TextGen-v0", **KWARGS)
    limited = gym.make("TextGen-v0", max_episode_steps=2)
    paid_more = gym.wrappers.TransformReward(stories, lambda reward: reward + 1000)
    bare = gym.make_vec("TextGen-v0", num_envs=8, autoreset_mode="Disabled", **KWARGS)
    lanes_paid_more = gym.wrappers.vector.TransformReward(bare, lambda reward: reward + 1000)
    for env, name in ((limited, "TimeLimit"), (paid_more, "TransformReward"), (lanes_paid_more, "TransformReward")):
        with pytest.raises(ValueError, match=f"without wrappers, which an agent would not use, got {name}"):
            PPO(policy, env, **SMALL)
        with pytest.raises(ValueError, match=f"without wrappers, which an agent would not use, got {name}"):
            PPO("tiny", env, device="cpu", **SMALL)
    for env in (gym.make("TextGen/Copy-v0"), gym.make_vec("TextGen/Copy-v0", num_envs=8, autoreset_mode="Disabled")):
        with pytest.raises(ValueError, match=r"policy's tokenizer .* pass the environment's id"):
            PPO(policy, env, **SMALL)
    with pytest.raises(ValueError, match="class was called by hand: it has no spec"):
        PPO(policy, TextGenEnv(max_new_tokens=4), **SMALL)
    assert PPO(policy, gym.make("TextGen-v0", tokenizer="stories"), **SMALL).env_id == "TextGen-v0"
    assert PPO(policy, gym.make("TextGen-v0", render_mode="ansi_list"), **SMALL).env_id == "TextGen-v0"


def test_an_argument_that_an_environment_does_not_have_is_refused():
    for policy in ("tiny", make_stories_policy()):
        with pytest.raises(TypeError, match=r"got 'rewad'. Did you mean 'reward'\?"):
            PPO(policy, "TextGen-v0", env_kwargs={"rewad": 3}, **SMALL)
        with pytest.raises(TypeError, match="Expected env_kwargs without 'tokenizer', which the agent decides"):
            PPO(policy, "TextGen-v0", env_kwargs={"tokenizer": "stories"}, **SMALL)


def test_numbers_of_numpy_count_as_numbers(tmp_path):
    agent = small_agent(seed=np.int64(3))
    agent.learn(np.int32(1), keep_checkpoints=np.int64(1), folder=tmp_path)
    assert agent.updates == 1
    assert torch.equal(weights(small_agent(seed=3).learn(1.0)), weights(agent))
    assert type(load(tmp_path, device="cpu").seed) is int
    for total in ("100", True, 1.5, None):
        with pytest.raises(TypeError, match="Expected total_timesteps to be a whole number of at least 1"):
            agent.learn(total)
    with pytest.raises(ValueError, match="Expected total_timesteps to be at least 1, got 0"):
        agent.learn(0)


def test_an_algorithm_loads_its_own_runs(tmp_path):
    agent = small_agent(seed=3)
    agent.save(tmp_path)
    assert torch.equal(weights(PPO.load(tmp_path, device="cpu")), weights(agent))
    with pytest.raises(
        ValueError, match=r"Expected a run of reinforce in .*, got one of ppo: agents.load\(\) takes any"
    ):
        REINFORCE.load(tmp_path, device="cpu")


def test_predict_says_what_an_observation_is():
    agent = small_agent()
    observation, _ = gym.make("TextGen-v0").reset(seed=0)
    for wrong, error, message in (
        (observation["input_ids"], TypeError, "Expected an observation, a mapping with input_ids, .*, got ndarray"),
        ({"input_ids": observation["input_ids"]}, ValueError, "got none of attention_mask, response_mask"),
        ({**observation, "input_ids": observation["input_ids"] + 10**6}, ValueError, r"Expected input_ids in \[0, "),
        ({**observation, "input_ids": observation["input_ids"] - 10**6}, ValueError, r"Expected input_ids in \[0, "),
        ({**observation, "input_ids": observation["input_ids"] + 0.5}, ValueError, r"Expected input_ids in .* float64"),
        ({**observation, "input_ids": observation["input_ids"][1:]}, ValueError, "of one shape"),
    ):
        with pytest.raises(error, match=message):
            agent.predict(wrong)


def test_stable_baselines3_evaluates_an_agent():
    """Its mean return of greedy episodes is the one that a loop over the environment adds up."""
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    agent = small_agent()
    env = gym.make("TextGen-v0", **KWARGS)
    env.reset(seed=5)
    mean, _ = evaluation.evaluate_policy(agent, env, n_eval_episodes=3, warn=False)
    plain, returns = gym.make("TextGen-v0", **KWARGS), []
    plain.reset(seed=5)
    for _ in range(3):
        observation, _ = plain.reset()
        returns.append(0.0)
        terminated = False
        while not terminated:
            action, _ = agent.predict(observation, deterministic=True)
            observation, reward, terminated, _, _ = plain.step(action)
            returns[-1] += reward
    assert mean == pytest.approx(np.mean(returns))


def test_evaluate_is_reproducible_and_on_the_named_split():
    agent = small_agent()
    one, two = (agent.evaluate(20, split="test") for _ in range(2))
    assert one == two
    assert one.episodes == 20
    assert abs(one.kl) < 1e-4
    assert one.score_low < one.score < one.score_high
    test = agent.make_env(1, split="test").setting.pool
    assert one.prompts == tuple(example.prompt for example in test.examples[:20])
    assert agent.evaluate(20, split="validation").prompts != one.prompts


def test_the_run_says_whether_values_have_a_trunk_of_their_own(tmp_path):
    policy = make_stories_policy()
    critic = policy.separate_critic()
    agent = PPO(policy, "TextGen-v0", env_kwargs=KWARGS, critic="separate", **SMALL)
    assert agent.policy.critic is critic
    agent.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert torch.equal(weights(again), weights(agent))
    assert again.policy.critic is not None
    settings = {"env_kwargs": KWARGS, "num_envs": 8}
    assert BestOfN(policy, "TextGen-v0", **settings).policy.critic is critic, "it has no such setting"
    shared = PPO(policy, "TextGen-v0", env_kwargs=KWARGS, **SMALL)
    assert shared.policy.critic is None
    assert policy.critic is critic, "the caller's policy keeps what it has"
    assert shared.policy.model is policy.model, "whose weights are trained"
    plain = make_stories_policy()
    separate = PPO(plain, "TextGen-v0", env_kwargs=KWARGS, critic="separate", **SMALL)
    assert plain.critic is None
    assert separate.policy.critic is not None
    before = [parameter.detach().clone() for parameter in plain.parameters()]
    separate.learn(1)
    assert any(not torch.equal(one, other) for one, other in zip(before, plain.parameters(), strict=True))
    assert plain.critic is None
    assert not {id(one) for one in critic.parameters()} & {
        id(one) for group in shared.optimizer.param_groups for one in group["params"]
    }


@pytest.mark.usefixtures("own_algorithms")
def test_a_new_algorithm_is_a_config_and_an_update():
    updates = []

    def update(policy, optimizer, rollout, config, generator):
        updates.append(rollout.num_tokens)
        return {"mine": 1.0}

    mine = Algorithm("mine", REINFORCE.config, update)
    rows = []
    run(mine("tiny", device="cpu", env_kwargs=KWARGS, **SMALL), 1, rows)
    assert rows[0]["mine"] == 1.0
    assert updates


@pytest.mark.usefixtures("own_algorithms")
def test_a_name_that_is_taken_is_refused():
    """Also of the same definition, executed again; the one that was there first stays."""

    def define():
        return Algorithm("mine", REINFORCE.config, lambda *args: {})

    mine = define()
    with pytest.raises(ValueError, match=r"Expected a new algorithm name, got 'mine', which is taken by .*<lambda>: "):
        define()
    with pytest.raises(ValueError, match=r"got 'ppo', which is taken by the one with update agents.algorithms.ppo."):
        Algorithm("ppo", REINFORCE.config, REINFORCE.update)
    assert Algorithm.known["mine"] is mine
    assert Algorithm.known["ppo"] is PPO


def test_the_price_of_kl_grows_beyond_the_limit():
    """By hand: as it is within the limit; at twice the limit, four times."""
    assert limited_kl_coef(0.02, kl=0.3, limit=0.3) == pytest.approx(0.02)
    assert limited_kl_coef(0.02, kl=-0.1, limit=0.3) == pytest.approx(0.02)
    assert limited_kl_coef(0.02, kl=0.6, limit=0.3) == pytest.approx(0.08)
    rows = []
    run(small_agent(kl_coef=0.5, kl_limit=1e-6, learning_rate=0.01), 3, rows)
    assert rows[0]["kl_coef"] == 0.5, "nothing has moved before the first update"
    assert rows[-1]["kl_coef"] > 0.5
    rows = []
    run(small_agent(kl_coef=0.5, kl_limit=None, learning_rate=0.01), 3, rows)
    assert rows[-1]["kl_coef"] == 0.5


def test_the_adaptive_price_is_ziegler_s_controller():
    """By hand: a tenth of the relative error, which is clipped to a fifth."""
    assert adapted_kl_coef(0.5, kl=0.2, target=0.2) == pytest.approx(0.5)
    assert adapted_kl_coef(0.5, kl=0.22, target=0.2) == pytest.approx(0.5 * 1.01)
    assert adapted_kl_coef(0.5, kl=5.0, target=0.2) == pytest.approx(0.5 * 1.02)
    assert adapted_kl_coef(0.5, kl=-1.0, target=0.2) == pytest.approx(0.5 * 0.98)
    rows = []
    agent = small_agent(kl_coef=0.5, kl_target=0.1, learning_rate=0.01)
    run(agent, 3, rows)
    assert rows[0]["kl_coef"] == pytest.approx(0.49), "nothing has moved yet: cheaper"
    for before, row in itertools.pairwise(rows):
        kl = row["kl"] / row["response_length"]
        assert row["kl_coef"] == pytest.approx(adapted_kl_coef(before["kl_coef"], kl, 0.1))
    assert agent.carried["kl_coef"] == rows[-1]["kl_coef"]


def test_a_target_begins_at_a_price_that_its_factors_can_move():
    """Also from random weights, whose price is 0 unless a target asks for one."""
    assert PPO(make_policy(), lanes(8), kl_target=0.1, **SMALL).config.kl_coef == 0.015
    assert PPO(make_policy(), lanes(8), kl_target=0.1, kl_coef=0.3, **SMALL).config.kl_coef == 0.3
    assert small_agent(kl_target=0.1).config.kl_coef == 0.015
    rows = []
    run(PPO(make_policy(), lanes(8), kl_target=1e-6, learning_rate=0.01, **SMALL), 3, rows)
    assert rows[-1]["kl_coef"] == pytest.approx(0.015 * 0.98 * 1.02**2), "cheaper where nothing has moved, then dearer"
    with pytest.raises(ValueError, match="Expected kl_coef above 0 with kl_target"):
        small_agent(kl_target=0.1, kl_coef=0.0)


def test_random_weights_are_no_start_model_to_stay_near(tmp_path):
    """The price of KL is that of a pretrained start model, and nothing where the start model's weights are random."""
    assert small_agent().config.kl_coef == 0.015
    assert small_agent(kl_coef=0.2).config.kl_coef == 0.2
    random = PPO(make_policy(), lanes(8), **SMALL)
    assert random.config.kl_coef == 0.0
    assert PPO(make_policy(), lanes(8), kl_coef=0.2, **SMALL).config.kl_coef == 0.2
    rows = []
    run(random, 2, rows)
    assert [row["kl_coef"] for row in rows] == [0.0, 0.0]
    random.policy.save_pretrained(tmp_path)
    assert Policy.from_pretrained(tmp_path, device="cpu").pretrained, "what was saved is a model to start from"


def test_tiny_is_the_bundled_model_or_a_fresh_one_for_another_vocabulary(tmp_path):
    """Fresh weights come from the run's seed, the global generator stays as it was, and a checkpoint is not fresh."""
    state = torch.random.get_rng_state()
    one, two, other = (REINFORCE("tiny", lanes(8), seed=seed, device="cpu", **SMALL) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not one.policy.pretrained
    assert one.policy.tokenizer.vocab_size == 10
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))
    one.learn(30, folder=tmp_path)
    again = load(tmp_path, env=lanes(8), device="cpu")
    assert again.config.kl_coef == 0.0
    assert again.config == one.config


def test_every_row_says_where_the_time_went():
    def slow(example, response):
        time.sleep(0.002)
        return float(len(response))

    rows = []
    settings = {"reward": slow, "max_new_tokens": 4}
    agent = PPO("tiny", "TextGen-v0", env_kwargs=settings, num_envs=4, episodes_per_update=4, device="cpu")
    started = time.perf_counter()
    agent.learn(2, on_update=rows.append)
    whole = time.perf_counter() - started
    (row,) = rows
    parts = [row[f"seconds_{name}"] for name in ("policy", "environment", "reference", "update")]
    assert all(part > 0 for part in parts)
    assert sum(parts) < whole
    assert 0.008 < row["seconds_score"] < row["seconds_environment"]  # at least a call a lane


def test_env_kwargs_of_numpy_come_back_from_a_checkpoint(tmp_path):
    kwargs = {
        "max_new_tokens": np.int64(4),
        "payout": {"every": np.int32(2)},
        "reward": {"length": np.float32(0.5)},
        "task": {"copy": {"level": np.int64(1), "train": np.int64(50)}},
    }
    agent = PPO("tiny", "TextGen-v0", env_kwargs=kwargs, device="cpu", **SMALL)
    agent.save(tmp_path / "run")
    assert load(tmp_path / "run", device="cpu").env_kwargs == {
        "max_new_tokens": 4,
        "payout": {"every": 2},
        "reward": {"length": 0.5},
        "task": {"copy": {"level": 1, "train": 50}},
    }
