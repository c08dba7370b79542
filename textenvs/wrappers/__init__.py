"""Views of an environment, for libraries and people that want something else than a dict of token ids.

    wrapper                     the agent's side                        for
    MultiDiscreteObservation    token ids, one dimension a place        MLP and tabular policies
    OneHotObservation           the same, as zeros and ones             MLP policies that embed nothing themselves
    FlatIdsObservation          the same, as one vector of numbers      loops that want a Box (CleanRL's ppo.py)
    TextObservation             the text                                people, programs, models behind an API
    TextAction                  a whole response as one action          bandits: one episode is one step
    score_function              not a wrapper: a reward function        trainers that score whole texts (TRL)
    encoder_decoder             not a wrapper: prompt and response      encoder-decoders of Transformers

Each wrapper has a vector version (`Vector...`) for the environments of `gym.make_vec`, which works on the arrays of all
lanes at once. `VectorTextAction` goes inside the others, around the environment itself.

Gymnasium's own wrappers do the rest, and are tested with these environments: `NormalizeReward`, `TimeAwareObservation`,
`FlattenObservation`, `RecordEpisodeStatistics`, `RecordVideo`, and their vector versions.
"""

from textenvs.wrappers.scores import ScoreFunction, score_function
from textenvs.wrappers.texts import (
    AnyText,
    TextAction,
    TextObservation,
    VectorTextAction,
    VectorTextObservation,
    response_encoder,
)
from textenvs.wrappers.tokens import (
    MAX_ONE_HOT,
    FlatIdsObservation,
    MultiDiscreteObservation,
    OneHotObservation,
    VectorFlatIdsObservation,
    VectorMultiDiscreteObservation,
    VectorOneHotObservation,
    encoder_decoder,
)

__all__ = [
    "MAX_ONE_HOT",
    "AnyText",
    "FlatIdsObservation",
    "MultiDiscreteObservation",
    "OneHotObservation",
    "ScoreFunction",
    "TextAction",
    "TextObservation",
    "VectorFlatIdsObservation",
    "VectorMultiDiscreteObservation",
    "VectorOneHotObservation",
    "VectorTextAction",
    "VectorTextObservation",
    "encoder_decoder",
    "response_encoder",
    "score_function",
]
