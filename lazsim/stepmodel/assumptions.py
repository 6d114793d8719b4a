"""What a step hangs on that no source tells."""

from dataclasses import dataclass, replace

import msgspec

from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.predict import predict_step


@dataclass(frozen=True)
class AssumedConstant:
    """An assumed constant of a step: its value, the least and the most that it may be, and what they do to the step."""

    name: str
    value: float
    low: float
    high: float
    low_change: float
    high_change: float
    """Share by which the step changes where the constant is the least, and the most: 0.1 is a tenth longer."""

    @property
    def weight(self) -> float:
        """The larger of both changes, whatever its sign."""
        return max(abs(self.low_change), abs(self.high_change))


def weigh_assumptions(inputs: StepInputs, beside_s: float = 0.0) -> list[AssumedConstant]:
    """Return the constants that are assumed, with what each by itself weighs in a step, the heaviest first.

    `beside_s` is what the step takes beside what is predicted of it.
    """
    constants, step_s = inputs.constants, predict_step(inputs).step_s

    def change(name: str, value: float) -> float:
        changed = msgspec.structs.replace(constants, **{name: value})
        return (predict_step(replace(inputs, constants=changed)).step_s - step_s) / (step_s + beside_s)

    found = [
        AssumedConstant(name, getattr(constants, name), low, high, change(name, low), change(name, high))
        for name, (low, high) in constants.assumed.items()
    ]
    return sorted(found, key=lambda one: -one.weight)
