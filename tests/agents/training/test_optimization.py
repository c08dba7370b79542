"""Optimisers and schedules: torch's, by name, and a logged step size that is the one in force."""

import pytest
import torch

from agents import PPO, REINFORCE, ActorCritic, load
from agents.training.config import RunConfig
from agents.training.optimization import make_optimizer, set_learning_rate
from agents.training.schedules import schedule
from tests.agents.helpers import lanes, make_policy


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.1}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.5}),
    ],
)
def test_optimisers_are_torch_s_own(name, kind, settings):
    """Five steps on the same gradients, beside one that is made by hand."""
    policy, twin = make_policy(seed=1), make_policy(seed=1)
    config = RunConfig(optimizer=name, learning_rate=0.01, **settings)
    ours = make_optimizer(policy, config)
    assert type(ours) is kind
    eps = {} if name == "sgd" else {"eps": 1e-5}
    theirs = kind(twin.parameters(), lr=0.01, **eps, **settings)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        for one, two in zip(policy.parameters(), twin.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            two.grad = one.grad.clone()
        ours.step()
        theirs.step()
    for one, two in zip(policy.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def torch_schedule(make, steps=20):
    """The step sizes of a torch scheduler, from 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULERS = torch.optim.lr_scheduler
THEIRS = {
    "constant": lambda optimizer: SCHEDULERS.ConstantLR(optimizer, factor=1.0),
    "linear": lambda optimizer: SCHEDULERS.LinearLR(optimizer, 1.0, 0.2, total_iters=20),
    "cosine": lambda optimizer: SCHEDULERS.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.2),
    "exponential": lambda optimizer: SCHEDULERS.ExponentialLR(optimizer, gamma=0.2 ** (1 / 20)),
    "inverse": lambda optimizer: SCHEDULERS.LambdaLR(optimizer, lambda step: 1 / (1 + 4 * step / 20)),
    "stepwise": lambda optimizer: SCHEDULERS.MultiStepLR(optimizer, [5, 10, 15], gamma=0.2 ** (1 / 3)),
}


@pytest.mark.parametrize("name", THEIRS)
def test_schedules_are_torch_s(name):
    ours = [schedule(name, step / 20, 0.2) for step in range(21)]
    assert ours == pytest.approx(torch_schedule(THEIRS[name]), rel=1e-6)
    assert ours[0] == 1
    assert ours[-1] == pytest.approx(1 if name == "constant" else 0.2)
    assert schedule(name, 1.7, 0.2) == ours[-1], "a run may go a little beyond its end"


def test_an_unknown_schedule_says_so():
    with pytest.raises(ValueError, match=r"Expected schedule 'constant', .*, got 'zigzag'"):
        schedule("zigzag", 0.5, 0.1)


def test_warm_up_comes_before_the_schedule_by_hand():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    config = RunConfig(learning_rate=0.5, learning_rate_schedule="linear", learning_rate_final=0.5, warmup=0.2)
    for progress, expected in ((0.0, 0.0), (0.1, 0.5 * 0.5 * 0.95), (0.2, 0.5 * 0.9), (1.0, 0.25)):
        assert set_learning_rate(optimizer, config, progress) == pytest.approx(expected)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_the_logged_step_size_is_the_one_in_force():
    """Read off the optimiser in the middle of every step, against the rows of the log and against the schedule."""
    agent = PPO(
        make_policy(seed=1),
        lanes(8),
        num_envs=8,
        episodes_per_update=8,
        learning_rate=0.01,
        learning_rate_schedule="linear",
        learning_rate_final=0.1,
        entropy_coef=0.4,
        entropy_schedule="cosine",
        entropy_final=0.5,
    )
    rows, used, starts = [], [], [0]
    agent.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    steps = []

    def on_update(row):
        rows.append(row)
        steps.append(len(used))
        starts.append(agent.timesteps)

    agent.learn(200, on_update=on_update)
    assert len(rows) > 3
    for update, row in enumerate(rows):
        since = steps[update - 1] if update else 0
        assert set(used[since : steps[update]]) == {row["learning_rate"]}
        assert row["learning_rate"] == pytest.approx(0.01 * (1 - 0.9 * starts[update] / 200))
        assert row["entropy_coef"] == pytest.approx(0.4 * schedule("cosine", starts[update] / 200, 0.5))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "weight_decay": 0.1, "learning_rate_schedule": "cosine", "warmup": 0.3},
        {"optimizer": "sgd", "momentum": 0.9, "learning_rate_schedule": "stepwise"},
        {"optimizer": "rmsprop", "momentum": 0.5, "learning_rate_schedule": "inverse", "critic": "separate"},
        {"kl_target": 0.01, "kl_coef": 0.1, "entropy_coef": 0.1, "entropy_schedule": "linear"},
    ],
)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(settings, tmp_path):
    class Stop(Exception):
        pass

    def fresh():
        settings_of_all = {"num_envs": 8, "episodes_per_update": 8, "learning_rate": 0.01, **settings}
        return PPO(make_policy(seed=1), lanes(8), seed=2, **settings_of_all)

    straight, stopped, rows, resumed_rows = fresh(), fresh(), [], []
    straight.learn(160, on_update=rows.append)

    def stop(row):
        resumed_rows.append(row)
        if stopped.updates == 2:
            raise Stop

    with pytest.raises(Stop):
        stopped.learn(160, on_update=stop)
    stopped.save(tmp_path)
    resumed = load(tmp_path, env=lanes(8), device="cpu")
    resumed.learn(160, on_update=resumed_rows.append)
    names = ("score", "learning_rate", "entropy_coef", "kl_coef", "policy_loss")
    assert [[row[name] for name in names] for row in resumed_rows] == [[row[name] for name in names] for row in rows]
    assert len(rows) > 3
    for one, two in zip(resumed.policy.parameters(), straight.policy.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("algorithm", "pretrained", "fresh"),
    [
        (PPO, (3e-4, 0.015, 0.0, "constant"), (1e-3, 0.0, 0.1, "linear")),
        (ActorCritic, (5e-4, 0.015, 0.0, "constant"), (2e-3, 0.0, 0.1, "linear")),
        (REINFORCE, (5e-4, 0.015, 0.0, "constant"), (2e-3, 0.0, 0.1, "linear")),
    ],
)
def test_what_is_left_open_depends_on_the_start_model(algorithm, pretrained, fresh):
    def of(config):
        return config.learning_rate, config.kl_coef, config.entropy_coef, config.entropy_schedule

    policy = make_policy()
    for known, expected in ((False, fresh), (True, pretrained)):
        policy.pretrained = known
        agent = algorithm(policy, lanes(4))
        assert of(agent.config) == expected
        assert of(algorithm.config().filled_in(known)) == expected
        assert agent.config.to_dict()["learning_rate"] == expected[0] == agent.optimizer.param_groups[0]["lr"]
        said = algorithm(
            policy, lanes(4), learning_rate=0.25, kl_coef=0.5, entropy_coef=0.75, entropy_schedule="cosine"
        )
        assert of(said.config) == (0.25, 0.5, 0.75, "cosine"), "what the user says stays"


@pytest.mark.parametrize("algorithm", [PPO, ActorCritic])
@pytest.mark.parametrize(
    ("payout", "expected"),
    [
        ("immediate", 0.8),
        ({"shaped": {"gamma": 1.0}}, 0.8),
        ("sparse", 1.0),
        ("word", 1.0),
        ("sentence", 1.0),
        ({"every": 2}, 1.0),
        ({"delayed": 2}, 1.0),
    ],
)
def test_lambda_that_is_left_open_depends_on_the_payout(algorithm, payout, expected):
    policy = make_policy()
    assert algorithm(policy, lanes(4, payout=payout)).config.gae_lambda == expected
    assert algorithm(policy, lanes(4, payout=payout), gae_lambda=0.25).config.gae_lambda == 0.25
    assert algorithm.config().filled_in(False, paid_at_once=expected < 1).gae_lambda == expected


def test_a_step_size_that_is_left_open_is_refused_where_it_is_needed():
    optimizer = make_optimizer(make_policy(), PPO.config())
    with pytest.raises(ValueError, match="Expected a config with a learning_rate, got None"):
        set_learning_rate(optimizer, PPO.config(), 0.5)
