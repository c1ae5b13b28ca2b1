"""A PostgreSQL server for all tests of this folder."""

import postgres_server
import pytest


@pytest.fixture(scope="session")
def server():
    """Return a running server; tests that stop it must start it again."""
    if reason := postgres_server.missing():
        pytest.skip(reason)
    with postgres_server.postgres_server() as found:
        yield found


@pytest.fixture
def database(server):
    """Return the URL of an empty database."""
    return server.new_database()
