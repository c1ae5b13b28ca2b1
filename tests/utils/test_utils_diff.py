"""Differences between plain data."""

from dashpot.utils.diff import diff_data


def test_diff_data_lists_every_difference():
    there, here = ({f"key{i}": value for i in range(9)} for value in (0, 1))
    assert len(diff_data(there, here)) == 9
