"""Removal of passwords from addresses and commands."""

import pytest

from dashpot.utils.passwords import without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@db:5432/x", "postgresql://ada:***@db:5432/x"),
        ("postgresql+psycopg://ada:p:q@db/x?sslmode=require", "postgresql+psycopg://ada:***@db/x?sslmode=require"),
        ("postgresql://ada:p@ss@db/x", "postgresql://ada:***@db/x"),
        ("postgresql://ada:p/q@db/x", "postgresql://ada:***@db/x"),
        ("postgresql://ada:p q@db/x", "postgresql://ada:***@db/x"),
        ("postgresql://db/x?user=ada&PASSWORD=s3cret&a=b", "postgresql://db/x?user=ada&PASSWORD=***&a=b"),
        ("redis://:s3cret@db:6379/0", "redis://:***@db:6379/0"),
        ("postgresql://db/x", "postgresql://db/x"),
        ("postgresql://db:5432/x", "postgresql://db:5432/x"),
        ("sqlite:///studies.db", "sqlite:///studies.db"),
        ("--storage postgresql://ada:s3cret@db/x --jobs 2", "--storage postgresql://ada:***@db/x --jobs 2"),
        ("--storage=postgresql://ada:s3cret@db/x file.py:f", "--storage=postgresql://ada:***@db/x file.py:f"),
        ("compare 'postgresql://ada:p q@db/x' --jobs 2", "compare 'postgresql://ada:***@db/x' --jobs 2"),
        ("a://u:p@h/x then b://v:q@h/y", "a://u:***@h/x then b://v:***@h/y"),
        ("two files, a:b@c and d:e", "two files, a:b@c and d:e"),
    ],
)
def test_without_passwords_hides_passwords_only(text, shown):
    assert without_passwords(text) == shown
