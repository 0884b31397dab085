"""Stage clock: which stage is at work, and about how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medattn_edge.deploy.plan import StagePlan
from medattn_edge.deploy.work_folder import StageOutcome

Say = Callable[[str], None]


class StageClock:
    """Says which stage is at work, and about how long the rest will take.

    Args:
        stages: all of them.
        say: takes a line.
    """

    def __init__(self, stages: Sequence[StagePlan], say: Say) -> None:
        self._stages, self._say = stages, say
        self._spent, self._cost = 0.0, 0.0
        self._left = list(stages)

    def begin(self, stage: StagePlan) -> None:
        """A stage starts."""
        number = self._stages.index(stage) + 1
        self._say(f"{number}/{len(self._stages)} {stage.title}{self._estimate()}")

    def end(self, stage: StagePlan, outcome: StageOutcome) -> None:
        """A stage is over, or had been run before."""
        self._left.remove(stage)
        if stage.cost:
            self._spent, self._cost = self._spent + outcome.seconds, self._cost + stage.cost
        number, failure = self._stages.index(stage) + 1, outcome.value.get("failure")
        how = "done before" if outcome.reused else f"{outcome.seconds:.0f} s"
        self._say(
            f"{number}/{len(self._stages)} {stage.title}: {how}" + (f"; no candidate: {failure}" if failure else "")
        )

    def _estimate(self) -> str:
        """Known seconds, and those of the other stages by what stages have cost until now."""
        if not self._cost:
            return ""
        rate = self._spent / self._cost
        seconds = sum(one.seconds or one.cost * rate for one in self._left)
        return f" (about {_in_words(seconds)} left in total)"


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
