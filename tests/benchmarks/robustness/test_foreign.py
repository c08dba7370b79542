"""Folders and files that are spoilt, each in one way: a few of what `python -m benchmarks foreign` loads."""

import sys

import pytest

from benchmarks.robustness.foreign import outcomes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the cases run in forked processes")


def failures(rows):
    """The rows that are neither read as they are nor refused in a sentence."""
    assert {row["result"] for row in rows} >= {"equal", "refused"}, "some are valid, and some are not"
    return [row for row in rows if row["result"] == "FAILED"]


@pytest.mark.parametrize("kind", ["data", "model"])
def test_a_few_are_read_or_refused(kind):
    assert not failures(outcomes(every=30, kinds=[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapters", "policy", "checkpoint", "reward model"])
def test_some_of_each_kind_are_read_or_refused(kind):
    if kind == "adapters":
        pytest.importorskip("peft", reason="peft is not installed: pip install 'textenvs[agents,lora]'")
    assert not failures(outcomes(every=8, kinds=[kind]))
