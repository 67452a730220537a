"""The ledger against `../cases.json`, which the consumer in Rust passes too. `python3 test_ledger.py`."""
import json
import pathlib
import random
import unittest

from ledger import Ledger

SOURCE = "/vedette/depot/gate-1"
CASES = json.loads((pathlib.Path(__file__).parent.parent / "cases.json").read_text(encoding="utf-8"))


def event(seq, name, epoch="E1", source=SOURCE):
    content = {"source": source, "id": name, "sequence": seq and f"{seq:020}", "epoch": epoch}
    return {key: value for key, value in content.items() if value not in (None, "")}


def state_of(ledger):
    epoch = ledger.current(SOURCE)
    upto = {s: (u, e) for s, e, u in ledger.confirmable()}.get(SOURCE)
    return {"confirm": list(upto), "missing": [list(gap) for gap in ledger.missing(SOURCE, epoch)],
            "lost": [list(span) for span in ledger.lost(SOURCE, epoch)]}


class LedgerTest(unittest.TestCase):
    def test_cases(self):
        for case in CASES:
            with self.subTest(case["name"]):
                ledger = Ledger(":memory:")
                for step in case["steps"]:
                    if "expect" in step:
                        now = state_of(ledger)
                        self.assertEqual({key: now[key] for key in step["expect"]}, step["expect"])
                    elif "outbox" in step:
                        ledger.outbox(SOURCE, step["outbox"])
                    else:
                        ledger.alert(event(*step["alert"], step.get("epoch", "E1"), step.get("source", SOURCE)))
                self.assertEqual(state_of(ledger), {key: case[key] for key in ("confirm", "missing", "lost")})
                stored = ledger.db.execute("SELECT id FROM events WHERE source = ? ORDER BY id", (SOURCE,))
                self.assertEqual([name for name, in stored], case["stored"])
                for epoch, spans in case.get("lost_before", {}).items():
                    self.assertEqual([list(span) for span in ledger.lost(SOURCE, epoch)], spans)

    def test_any_order_any_number_of_times(self):
        dice = random.Random(5)
        for _ in range(20):
            numbers = [n for n in range(1, 200) for _ in range(dice.choice([1, 1, 1, 2, 3]))]
            dice.shuffle(numbers)
            ledger = Ledger(":memory:")
            came = set()
            for n in numbers:
                self.assertEqual(ledger.alert(event(n, f"n{n}")), n not in came)
                came.add(n)
                first_gap = next(i for i in range(1, 201) if i not in came)
                self.assertEqual(ledger.confirmable(), [(SOURCE, "E1", first_gap - 1)])
                missing = {i for a, b in ledger.missing(SOURCE, "E1") for i in range(a, b + 1)}
                self.assertEqual(missing, set(range(1, max(came))) - came)


if __name__ == "__main__":
    unittest.main()
