"""Alternating rounds: every stretch in each, one after the other, so that the machine's moods meet all of them."""

from collections.abc import Callable, Mapping, Sequence

from bench.progress import doing, done
from bench.report import HEADER, figures_line
from bench.rows import Round
from bench.stretches import Figures

Take = Callable[[str], Mapping[str, Figures]]


def alternate(names: Sequence[str], number: int, take: Take) -> list[Round]:
    """Takes the stretches so many times, every second time in the opposite order, and shows their figures."""
    done(f"{'':<12}{HEADER}")
    rounds: list[Round] = []
    for turn in range(1, number + 1):
        figures: dict[str, Figures] = {}
        for name in names if turn % 2 else reversed(names):
            doing(f"round {turn}/{number}: {name}")
            taken = take(name)
            figures.update(taken)
            for part in taken:
                done(f"round {turn:>2}/{number:<3}{figures_line(part, taken[part])}")
        rounds.append(figures)
    return rounds
