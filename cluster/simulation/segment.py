"""A run of engine steps between which nothing joins or leaves, in closed form."""

import math


class Segment:
    """Steps of evenly growing length: step i takes step_s + i·slope_s, i from 0 on.

    Decoding b sequences, each step attends to b tokens of context more than the one before, so the slope is b
    times what a token of context costs.
    """

    __slots__ = ("ends_at_s", "slope_s", "start_s", "step_s", "steps")

    def __init__(self) -> None:
        """A segment that is over; `start` makes it a real one."""
        self.start_s = 0.0
        self.step_s = 0.0
        self.slope_s = 0.0
        self.steps = 0
        self.ends_at_s = math.inf

    def start(self, now_s: float, *, step_s: float, slope_s: float, steps: int) -> None:
        """Begin anew."""
        self.start_s = now_s
        self.step_s = step_s
        self.slope_s = slope_s
        self.steps = steps
        self.ends_at_s = now_s + self.span_s(steps)

    def span_s(self, steps: int) -> float:
        """Time of the first steps."""
        return steps * self.step_s + self.slope_s * (steps * (steps - 1) / 2)

    def steps_to_reach(self, now_s: float) -> int:
        """The least number of steps whose end is not before an instant; at least 1, at most all."""
        elapsed_s = now_s - self.start_s
        step_s, slope_s = self.step_s, self.slope_s
        if slope_s > 0.0:
            # steps·step_s + slope_s·steps·(steps-1)/2 = elapsed_s, solved for steps
            half_s = step_s - slope_s / 2
            root_s = math.sqrt(half_s * half_s + 2 * slope_s * elapsed_s)
            steps = math.ceil(2 * elapsed_s / (half_s + root_s)) if half_s + root_s > 0 else self.steps
        else:
            steps = math.ceil(elapsed_s / step_s) if step_s > 0 else self.steps
        steps = min(max(steps, 1), self.steps)
        # Rounding may be a step off either way.
        while steps < self.steps and self.span_s(steps) < elapsed_s:
            steps += 1
        while steps > 1 and self.span_s(steps - 1) >= elapsed_s:
            steps -= 1
        return steps

    def steps_done(self, now_s: float) -> int:
        """Steps that are complete at an instant."""
        steps = self.steps_to_reach(now_s)
        return steps if self.start_s + self.span_s(steps) <= now_s else steps - 1

    def cut(self, now_s: float) -> bool:
        """End at the first step boundary at or after an instant; False if that is the end anyway."""
        steps = self.steps_to_reach(now_s)
        if steps >= self.steps:
            return False
        self.steps = steps
        self.ends_at_s = self.start_s + self.span_s(steps)
        return True
