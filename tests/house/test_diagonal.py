"""The diagonal of stacked parametrizations contains every value."""

from types import SimpleNamespace

from diagonal import mark_combinations


class Item(SimpleNamespace):
    parent, originalname, nodeid = None, "test_x", "test_x"

    def add_marker(self, marker):
        self.keywords.add(marker.name)


def items(*counts, slow=(), missing=()):
    """Return the items of parametrizations with these counts, those of `slow` marked."""
    found = []
    for a in range(counts[0]):
        for b in range(counts[1]):
            if (a, b) not in missing:
                keywords = {"diagonal", *(["slow"] if (a, b) in slow else [])}
                found.append(Item(callspec=SimpleNamespace(_idlist=(a, b)), keywords=keywords))
    return found


def fast(found):
    mark_combinations(found)
    return [item.callspec._idlist for item in found if "slow" not in item.keywords]


def test_diagonal_contains_every_value():
    assert fast(items(3, 2)) == [(0, 0), (1, 1), (2, 0)]
    assert fast(items(2, 4)) == [(0, 0), (0, 2), (1, 1), (1, 3)]


def test_values_of_slow_tests_do_not_count():
    assert fast(items(3, 2, slow=((1, 0), (1, 1)))) == [(0, 0), (2, 1)]


def test_unmarked_tests_are_unchanged():
    found = items(2, 2)
    found[1].keywords.remove("diagonal")
    assert (0, 1) in fast(found)


def test_incomplete_diagonal_marks_nothing():
    assert fast(items(2, 2, missing=((1, 1),))) == [(0, 0), (0, 1), (1, 0)]
