"""Scores that need a network; importing this registers them with textenvs by name."""

from agents.rewards.bertscore import BERTScore
from agents.rewards.classifier import ClassifierScore
from agents.rewards.language_model import LanguageModelScore
from agents.rewards.preference import LogRatioScore, PreferenceScore
from textenvs import register_reward

for _score in (LanguageModelScore, ClassifierScore, PreferenceScore, LogRatioScore, BERTScore):
    register_reward(_score.name, _score)
