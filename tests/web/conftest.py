"""The app with a fake model, for tests that need no other clock."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from config import Settings
from server import create_app
from tests.support.fakes import FakeRunner


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(max_inputs=3, max_body_bytes=100), FakeRunner())) as opened:
        yield opened
