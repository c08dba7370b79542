"""Fixtures of the policies' tests."""

import logging

import pytest


@pytest.fixture
def said():
    """The warnings of `agents`, as a list that grows."""
    found: list[str] = []

    class Listens(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    logger, handler = logging.getLogger("agents"), Listens(logging.WARNING)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
