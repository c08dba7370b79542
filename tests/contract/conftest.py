"""The ids over public data sets are held to the contract on small files, which lie where `TEXTENVS_DATA` says."""

from collections.abc import Iterator

import pytest

from tests.textenvs.datasets.helpers import write_public_data
from textenvs.datasets import DATA_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def _public_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_VARIABLE, str(write_public_data(tmp_path_factory.mktemp("data"))))
        yield
