"""Environments and language models for Stable-Baselines3.

    from agents.sb3 import TextGenVecEnv, TransformerPolicy
    envs = TextGenVecEnv("TextGen-v0", num_envs=64)
    stable_baselines3.PPO(TransformerPolicy, envs, policy_kwargs={"model": "tiny"}, gamma=1.0).learn(10_000)

`TextGenVecEnv` is the native vector environment as a `VecEnv`: what `DummyVecEnv` of as many environments gives, but
without its loop. `TransformerPolicy` is a language model as the policy of SB3's PPO and A2C, and
`MaskableTransformerPolicy` that of sb3-contrib's MaskablePPO. They read the whole text at every step, since SB3 has no
place for a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.policy.policy import Policy
from textenvs import TextGenEnv, TextGenVectorEnv
from textenvs.vector_env import check_env_id

try:
    from stable_baselines3.common.policies import MultiInputActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.type_aliases import Schedule
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
except ImportError as error:
    raise ImportError(
        'Stable-Baselines3 is needed for agents.sb3. Install it with: pip install "textenvs[agents,sb3]"'
    ) from error


class TextGenVecEnv(VecEnv):
    """`TextGenVectorEnv` as a Stable-Baselines3 `VecEnv`: the same values as `DummyVecEnv`, without its loop.

    A lane that ends is reset in the same step. Its info is then the last one of its episode, with the last observation
    as `terminal_observation`; `TimeLimit.truncated` is always False, since nothing cuts an episode. `seed(s)` gives
    lane i the seed s + i (and lanes of a group the seed of their group). sb3-contrib's MaskablePPO finds
    `action_masks`. SB3's `VecMonitor(envs)` records episode returns, as for any vector environment.

    Args:
        envs: An id, or a `TextGenVectorEnv` with autoreset_mode "SameStep", under any wrapper of its observations (see
            `textenvs.wrappers`).
        num_envs: Number of lanes, where `envs` is an id; None is 1.
        **settings: For `gym.make_vec`, where `envs` is an id.

    Raises:
        TypeError: If it is another environment, or numbers and settings come with one that is made already.
        ValueError: If its autoreset mode is another, or the id is of another environment.

    Example:
        >>> envs = TextGenVecEnv("TextGen-v0", num_envs=4, max_new_tokens=8)
        >>> envs.seed(0)
        [0, 1, 2, 3]
        >>> envs.reset()["input_ids"].shape[0]
        4
    """

    def __init__(self, envs: str | VectorEnv[Any, Any, Any], num_envs: int | None = None, **settings: Any) -> None:
        if isinstance(envs, str):
            check_env_id(envs)
            count = 1 if num_envs is None else num_envs
            envs = gym.make_vec(envs, num_envs=count, **{"autoreset_mode": AutoresetMode.SAME_STEP, **settings})
        elif num_envs is not None or settings:
            raise TypeError(f"Expected num_envs and settings with an id alone, got them with {envs!r}")
        base = envs.unwrapped
        if not isinstance(base, TextGenVectorEnv):
            raise TypeError(f"Expected a vector environment of textenvs, got {base!r}")
        if base.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(f"Expected autoreset_mode 'SameStep', got {base.autoreset_mode.value!r}")
        self.envs = envs
        self._base = base
        self._actions: NDArray[Any] | None = None
        super().__init__(base.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = dict(TextGenEnv.metadata)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds every lane at the next reset.

        Args:
            seed: Lane i gets seed + i // group_size; None draws one.

        Returns:
            The seed of each lane.
        """
        first = super().seed(seed)[0]
        assert first is not None  # SB3 draws one
        self._seeds = [first + lane // self._base.group_size for lane in range(self.num_envs)]
        return self._seeds

    def reset(self) -> VecEnvObs:
        """Begins an episode in every lane, with the seeds and options that were set.

        Returns:
            The observations.

        Raises:
            ValueError: If options were set for some lanes and not for others.
        """
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        observations, infos = self.envs.reset(seed=seeds, options=self._merged_options())  # type: ignore[arg-type]
        self.reset_infos = _split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return self._copied(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions, `(num_envs,)` token ids, for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Takes the actions in the lanes.

        Returns:
            Observations, rewards `(num_envs,)` float32, dones `(num_envs,)` bool, and an info for each lane.
        """
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        final = {
            key: infos.pop(key) for key in ("final_obs", "_final_obs", "final_info", "_final_info") if key in infos
        }
        rows = _split_infos(infos, self.num_envs)
        if final:
            last = _split_infos(final["final_info"], self.num_envs)
            for lane in np.flatnonzero(terminated).tolist():
                self.reset_infos[lane] = rows[lane]
                rows[lane] = {**last[lane], "terminal_observation": final["final_obs"][lane]}
        for row in rows:
            row["TimeLimit.truncated"] = False
        return self._copied(observations), rewards.astype(np.float32), terminated | truncated, rows

    def close(self) -> None:
        """Closes the environment."""
        self.envs.close()

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns the tokens that may come next, `(num_envs, vocab_size)` bool."""
        return self._base.action_masks()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute of some lanes, each seen as a `TextGenEnv`; None: of all."""
        values = self._base.call("get_wrapper_attr", attr_name)
        return [values[lane] for lane in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of some lanes, each seen as a `TextGenEnv`; None: of all."""
        setters = self._base.call("get_wrapper_attr", "__setattr__")
        for lane in self._get_indices(indices):
            setters[lane](attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of some lanes, each seen as a `TextGenEnv`; None: of all."""
        if method_name == "action_masks" and indices is None:  # MaskablePPO asks before every step
            return list(self._base.action_masks())
        return [method(*method_args, **method_kwargs) for method in self.get_attr(method_name, indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Returns False for each of some lanes: none has a wrapper."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Returns a picture of each lane, where render_mode is "rgb_array"."""
        images = self._base.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if images is None else list(images)

    def render(self, mode: str | None = None) -> NDArray[np.uint8] | None:
        """Shows every lane, as SB3 does: "rgb_array" returns one picture of all of them; "human" prints them."""
        if self.render_mode == "human" and mode in (None, "human"):
            self._base.render()
            return None
        return super().render(mode)

    def _copied(self, observations: Any) -> VecEnvObs:
        """Copies observations that the next step would change: SB3 stores them after it."""
        if self._base.copy or not isinstance(observations, dict):
            unshared: VecEnvObs = observations
            return unshared
        return {key: array.copy() for key, array in observations.items()}

    def _merged_options(self) -> dict[str, Any] | None:
        """Returns the options that SB3 keeps for each lane, as one dict for all."""
        if not any(self._options):
            return None
        names = {frozenset(options) for options in self._options}
        if names != {frozenset({"example"})}:
            raise ValueError(f"Expected the option 'example' for every lane, or none for any, got {self._options}")
        return {"example": [options["example"] for options in self._options]}


def _split_infos(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Splits Gymnasium's dict of arrays into a dict for each lane: Python scalars, and rows of larger arrays."""
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if key.startswith("_"):
            continue
        for row, value in zip(rows, values.tolist() if values.ndim == 1 else values, strict=True):
            row[key] = value
    return rows


class _States(BaseFeaturesExtractor):
    """The trunk's state at the last token of each observation."""

    def __init__(self, observation_space: spaces.Dict, policy: Policy) -> None:
        super().__init__(observation_space, features_dim=policy.value_head.in_features)
        self.policy = policy

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        return self.policy.last_states(observations)  # SB3 makes floats of token ids, which are exact below 2^24


class _Logits(nn.Module):
    """The language model's head, over the actions."""

    def __init__(self, policy: Policy, num_actions: int) -> None:
        super().__init__()
        self.policy = policy
        self.num_actions = num_actions

    def forward(self, hidden: Tensor) -> Tensor:
        return self.policy.logits(hidden)[:, : self.num_actions]


class _Values(nn.Module):
    """The policy's value head, as a part of the policy, which keeps it in evaluation mode."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, hidden: Tensor) -> Tensor:
        values: Tensor = self.policy.value_head(hidden.float())
        return values


class _LanguageModel:
    """A mix-in that makes one of SB3's policies a language model, with its trunk, head and value head."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        model: Policy | str | Mapping[str, Any] = "tiny",
        tokenizer: Any = "stories",
        seed: int = 0,
        use_sde: bool = False,
        **optimizer: Any,
    ) -> None:
        if use_sde:
            raise ValueError("Expected use_sde=False: its noise is for continuous actions")
        unknown = set(optimizer) - {"optimizer_class", "optimizer_kwargs"}
        if unknown:
            known = "model, tokenizer, seed, optimizer_class and optimizer_kwargs"
            raise TypeError(f"Expected policy_kwargs of {known}, got {sorted(unknown)}")
        if not isinstance(model, Policy):
            make_from_config = isinstance(model, Mapping)
            model = (
                Policy.from_config(model, tokenizer, seed=seed, device="cpu")  # type: ignore[arg-type]
                if make_from_config
                else Policy.from_pretrained(model, device="cpu")  # type: ignore[arg-type]
            )
        if model.critic is not None:
            raise ValueError(
                "Expected a policy that reads values off its model's own trunk, whose states Stable-Baselines3 takes "
                "for both, got one with a critic of its own: pass policy.with_critic('shared')"
            )
        if not isinstance(action_space, spaces.Discrete) or action_space.n != model.tokenizer.vocab_size:
            raise ValueError(
                f"Expected an environment with the model's tokenizer, Discrete({model.tokenizer.vocab_size}) actions, "
                f"got {action_space}: make it with tokenizer=policy.tokenizer"
            )
        super().__init__(  # type: ignore[call-arg]
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            ortho_init=False,
            features_extractor_class=_States,
            features_extractor_kwargs={"policy": model},
            **optimizer,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        this: Any = self
        policy: Policy = this.features_extractor.policy
        this.action_net = _Logits(policy, int(this.action_space.n))
        this.value_net = _Values(policy)
        trained = [parameter for parameter in this.parameters() if parameter.requires_grad]
        this.optimizer = this.optimizer_class(trained, lr=lr_schedule(1), **this.optimizer_kwargs)


class TransformerPolicy(_LanguageModel, MultiInputActorCriticPolicy):
    """A language model as the policy of Stable-Baselines3's PPO and A2C. Token ids stay ids.

    `policy_kwargs` of SB3 are its arguments: `model`, an `agents.Policy`, what `Policy.from_pretrained` takes ("tiny"),
    or a dict as `Policy.from_config` takes it, with its `tokenizer` and `seed`; and SB3's own `optimizer_class` and
    `optimizer_kwargs`. The environment has the model's tokenizer. Dropout is off throughout.

    Raises:
        TypeError: If there is no such argument.
        ValueError: If the environment has another vocabulary, or the model a critic of its own.
    """


if TYPE_CHECKING:
    MaskableTransformerPolicy: Any
else:
    try:
        from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
    except ImportError:

        def __getattr__(name: str) -> Any:
            if name == "MaskableTransformerPolicy":
                raise ImportError(
                    "sb3-contrib is needed for MaskableTransformerPolicy. Install it with: pip install sb3-contrib"
                )
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    else:

        class MaskableTransformerPolicy(_LanguageModel, MaskableMultiInputActorCriticPolicy):
            """`TransformerPolicy` for sb3-contrib's MaskablePPO, with an environment that has action masks."""


__all__ = ["MaskableTransformerPolicy", "TextGenVecEnv", "TransformerPolicy"]
