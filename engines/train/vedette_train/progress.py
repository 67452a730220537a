"""How far a long run is, on standard error: one line that is rewritten, or one every half minute in a log."""
import sys
import time


class Progress:
    def __init__(self, what: str, total: int):
        self.what, self.total, self.done, self.began, self.said = what, total, 0, time.monotonic(), 0.0

    def step(self, about: str = "") -> None:
        self.done += 1
        now = time.monotonic()
        live = sys.stderr.isatty()
        if not live and now - self.said < 30 and self.done < self.total:
            return
        self.said = now
        left = (now - self.began) / self.done * (self.total - self.done)
        line = f"{self.what} {self.done}/{self.total}, {duration(left)} left {about}"
        print(f"\r{line:<100.100}" if live else line.rstrip(), end="\n" if not live or self.done == self.total else "",
              file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
