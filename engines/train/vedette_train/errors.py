"""What the kit says when something given to it cannot be used."""


class KitError(Exception):
    """What is wrong, where, and what to do about it. Printed without a trace; any other exception is a fault of the kit."""


class LeakError(KitError):
    """One source is on both sides of a split."""


def all_of(problems: list[str], most: int = 20) -> str:
    """All problems in one message; the rest is counted."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join(problems[:most] + more)
