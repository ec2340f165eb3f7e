"""One enumeration of levels: words, letters, and what is neither."""

import pytest

from kernel_pytorch.core.optimization_level import OptimizationLevel


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("O0", "O0"),
        ("o1", "O1"),
        (" O3 ", "O3"),
        ("debug", "O0"),
        ("Conservative", "O1"),
        ("BALANCED", "O2"),
        ("aggressive", "O3"),
    ],
)
def test_words_and_letters(text, level):
    assert OptimizationLevel(text).value == level
    assert OptimizationLevel.from_string(text) is OptimizationLevel(level)


def test_the_words_are_aliases():
    assert OptimizationLevel.DEBUG is OptimizationLevel.O0
    assert [level.value for level in OptimizationLevel] == ["O0", "O1", "O2", "O3"]
    assert [OptimizationLevel(level.word) for level in OptimizationLevel] == [*OptimizationLevel]


def test_unknown_levels_are_refused_with_the_nearest_word():
    with pytest.raises(ValueError, match="unknown optimization level 'agressive': .*'aggressive'"):
        OptimizationLevel("agressive")
    with pytest.raises(ValueError, match="unknown optimization level 2: expected one of O0, O1"):
        OptimizationLevel(2)


def test_from_string_is_lenient_and_says_so():
    with pytest.warns(UserWarning, match="unknown optimization level 'turbo'.*taking O2"):
        assert OptimizationLevel.from_string("turbo") is OptimizationLevel.O2
