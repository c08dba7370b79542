"""Published names: each resolves to an algorithm and the settings that come closest to its paper.

On the command line, `--algorithm dapo` makes a run of grpo with these settings in its config.json; in Python,
`GRPO("tiny", "TextGen-v0", **PUBLISHED["dapo"].settings)` is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class PublishedName:
    """A published algorithm, as settings of one that is here.

    Attributes:
        algorithm: Name of the algorithm.
        settings: Its settings.
        paper: Number of the paper on arXiv.
        differs: What still differs from the paper.
    """

    algorithm: str
    settings: Mapping[str, Any]
    paper: str
    differs: str


_WHOLE_EPISODE = {"credit": "episode", "entropy_coef": 0.0}
_NO_KL = {"kl_coef": 0.0}

PUBLISHED: Mapping[str, PublishedName] = MappingProxyType(
    {
        "a2c": PublishedName(
            "actor_critic",
            {"n_steps": 5, "kl_coef": 0.0},
            "1602.01783",
            "n-step returns look five actions ahead of each action; the paper cuts segments of five",
        ),
        "rloo": PublishedName(
            "reinforce",
            {
                **_WHOLE_EPISODE,
                "baseline": "leave_one_out",
                "group_size": 4,
                "loss_mean": "episode",
                "kl_credit": "return",
                "kl_limit": None,
                "normalize_advantages": False,
            },
            "2402.14740",
            "nothing in the gradient; one step of Adam a batch",
        ),
        "remax": PublishedName(
            "reinforce",
            {
                **_WHOLE_EPISODE,
                "baseline": "greedy",
                "loss_mean": "episode",
                "kl_credit": "return",
                "kl_limit": None,
                "normalize_advantages": False,
            },
            "2310.10505",
            "the greedy response pays no price of KL",
        ),
        "raft": PublishedName(
            "best_of_n",
            {"group_size": 8},
            "2304.06767",
            "the policy that plays is the one just trained, batch by batch",
        ),
        "dr_grpo": PublishedName(
            "grpo",
            {**_WHOLE_EPISODE, **_NO_KL, "advantage": "mean", "loss_mean": "episode"},
            "2503.20783",
            "the loss is not divided by a constant length: a factor, which Adam undoes",
        ),
        "dapo": PublishedName(
            "grpo",
            {**_WHOLE_EPISODE, **_NO_KL, "loss_mean": "token", "clip_range_high": 0.28, "drop_equal_groups": True},
            "2503.14476",
            "groups that earned the same are left out and not sampled again; no penalty on long responses",
        ),
        "gspo": PublishedName(
            "grpo",
            {**_WHOLE_EPISODE, **_NO_KL, "ratio": "sequence", "clip_range": 3e-4, "clip_range_high": 4e-4},
            "2507.18071",
            "the standard deviation divides by the size of the group",
        ),
        "cispo": PublishedName(
            "grpo",
            {
                **_WHOLE_EPISODE,
                **_NO_KL,
                "ratio": "weight",
                "loss_mean": "token",
                "clip_range": 1.0,
                "clip_range_high": 0.28,
            },
            "2506.13585",
            "the upper cut is DAPO's; no penalty on long responses",
        ),
    }
)
"""Name on the command line to what it stands for."""
