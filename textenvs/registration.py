"""The table of ids, which `gym.make` and `gym.make_vec` know after `import textenvs`.

An id's dynamics, reward, tokenizer and thresholds are frozen: a change of them makes a -v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym


@dataclass(frozen=True)
class Registration:
    """The environment that an id stands for.

    Attributes:
        kwargs: The environment's keyword arguments, by the names that `TextGenEnv` has.
        reward_threshold: The mean score from which it counts as solved: the `threshold` of its task's reference scores
            on the test split, to 6 digits. None over data, which a user may have more or less of.
    """

    kwargs: Mapping[str, Any]
    reward_threshold: float | None


ENVS: dict[str, Registration] = {
    "TextGen-v0": Registration({"task": "stories"}, 0.903373),
    "TextGen/Stories-v0": Registration({"task": "stories"}, 0.903373),
    "TextGen/Copy-v0": Registration({"task": "copy"}, 0.908187),
    "TextGen/Reverse-v0": Registration({"task": "reverse"}, 0.908187),
    "TextGen/Sort-v0": Registration({"task": "sort"}, 0.907071),
    "TextGen/DelayedCue-v0": Registration({"task": "delayed_cue"}, 0.906561),
    "TextGen/Chain-v0": Registration({"task": "chain"}, 0.921681),
    "TextGen/Password-v0": Registration({"task": "password"}, 0.90003),
    "TextGen/Needle-v0": Registration({"task": "needle"}, 0.902499),
    "TextGen/Brackets-v0": Registration({"task": "brackets"}, 0.906569),
    "TextGen/Arithmetic-v0": Registration({"task": "arithmetic"}, 0.906241),
    "TextGen/Length-v0": Registration({"task": "length"}, 0.916646),
    "TextGen/Dialogue-v0": Registration({"task": "dialogue"}, 0.900002),
    "TextGen/SummarizeExtractive-v0": Registration({"task": "summarize_extractive"}, 0.901115),
    "TextGen/SummarizeAbstractive-v0": Registration({"task": "summarize_abstractive"}, 0.900004),
    "TextGen/Translate-v0": Registration({"task": "translate"}, 0.908402),
    "TextGen/QuestionAnswering-v0": Registration({"task": "question_answering"}, 0.900279),
    "TextGen/Classify-v0": Registration({"task": "classify"}, 0.9),
    "TextGen/Recommend-v0": Registration({"task": "recommend"}, 0.875832),
    "TextGen/Sentiment-v0": Registration({"task": "sentiment"}, 0.902404),
    "TextGen/Write-v0": Registration({"task": "write"}, 0.905689),
}


DATA_ENVS: dict[str, Registration] = {
    "TextGen/CommonGen-v0": Registration({"task": "commongen"}, None),
    "TextGen/DialogSum-v0": Registration({"task": "dialogsum"}, None),
    "TextGen/E2E-v0": Registration({"task": "e2e"}, None),
    "TextGen/GSM8K-v0": Registration({"task": "gsm8k"}, None),
    "TextGen/Multi30k-v0": Registration({"task": "multi30k"}, None),
    "TextGen/PersonaChat-v0": Registration({"task": "persona_chat"}, None),
    "TextGen/Polarity-v0": Registration({"task": "sentence_polarity"}, None),
    "TextGen/SQuAD-v0": Registration({"task": "squad"}, None),
    "TextGen/SciTLDR-v0": Registration({"task": "scitldr"}, None),
    "TextGen/TinyStories-v0": Registration({"task": "tinystories"}, None),
}
"""The ids over public data sets, which are not part of the package. Their data is looked for when one is made."""


def register_envs() -> None:
    """Registers every id of both tables with Gymnasium. Calling it twice changes nothing."""
    for env_id, registration in (ENVS | DATA_ENVS).items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point="textenvs.env:TextGenEnv",
                vector_entry_point="textenvs.vector_env:TextGenVectorEnv",
                reward_threshold=registration.reward_threshold,
                kwargs=dict(registration.kwargs),
            )


def list_envs(data: bool = False) -> list[str]:
    """Lists every id, sorted.

    Args:
        data: If True, also the ids over public data sets, which need data that is not part of the package.

    Returns:
        The ids.

    Example:
        >>> list_envs()[0]
        'TextGen-v0'
        >>> sorted({*list_envs(data=True)} - {*list_envs()})[0]
        'TextGen/CommonGen-v0'
    """
    return sorted(ENVS | DATA_ENVS) if data else sorted(ENVS)
