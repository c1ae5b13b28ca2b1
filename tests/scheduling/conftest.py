"""A PostgreSQL server for all tests of this folder."""

import postgres_server
import pytest


@pytest.fixture(scope="session")
def server():
    """Return a running server, for tests marked `needs_postgresql`; tests that stop it must start it again."""
    with postgres_server.postgres_server() as found:
        yield found


@pytest.fixture
def database(server):
    """Return the URL of an empty database."""
    return server.new_database()
