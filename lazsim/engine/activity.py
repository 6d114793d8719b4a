"""What a job is doing, and why it stops doing it."""

from collections.abc import Generator
from enum import Enum, auto
from typing import Any

import simpy

Activity = Generator[simpy.Event, Any, None]


class Cause(Enum):
    """Why the job is interrupted."""

    FAILURE = auto()
    JOIN = auto()
    END = auto()
