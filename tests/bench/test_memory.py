"""Memory is flat where its last third is not above its first."""

import pytest

from bench.memory import growth


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        pytest.param([100.0] * 9, 1.0, id="flat"),
        pytest.param([100.0, 100.0, 100.0, 110.0, 120.0, 130.0, 150.0, 150.0, 150.0], 1.5, id="grows"),
        pytest.param([100.0, 100.0, 900.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0], 1.0, id="one peak"),
        pytest.param([100.0], 1.0, id="a single sample"),
    ],
)
def test_growth_is_of_the_medians(samples: list[float], expected: float) -> None:
    assert growth(samples) == expected
