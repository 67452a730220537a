"""What has come and what is missing: SQLite, and nothing of MQTT. `../cases.json` is its contract.

Nothing here is specific to one process: workers that share the load share the database.
"""
import json
import sqlite3

TABLES = """
CREATE TABLE IF NOT EXISTS events (source TEXT, id TEXT, epoch TEXT, seq INTEGER, payload TEXT, PRIMARY KEY (source, id));
-- One for each life of a device's numbers. All up to `upto` are here or lost; `newest` is the highest known to be sent.
CREATE TABLE IF NOT EXISTS streams (source TEXT, epoch TEXT, upto INTEGER, newest INTEGER, PRIMARY KEY (source, epoch));
CREATE TABLE IF NOT EXISTS current (source TEXT PRIMARY KEY, epoch TEXT);
-- Numbers that are here, above a gap.
CREATE TABLE IF NOT EXISTS ahead (source TEXT, epoch TEXT, seq INTEGER, PRIMARY KEY (source, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (source TEXT, epoch TEXT, first INTEGER, last INTEGER, why TEXT);
"""


class Ledger:
    """The books of one consumer. Whoever calls `begin` calls `commit`, and tells nobody before that."""

    def __init__(self, path):
        self.db = sqlite3.connect(path, timeout=30, isolation_level=None)
        self.db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + TABLES)

    def begin(self):
        if not self.db.in_transaction:
            self.db.execute("BEGIN IMMEDIATE")

    def commit(self):
        if self.db.in_transaction:
            self.db.execute("COMMIT")

    def alert(self, event):
        """Takes a CloudEvent in; whether it is the first time."""
        source, epoch = event["source"], event.get("epoch", "")
        # One that the device could not store has no number; it may come again with one, and with the same id.
        seq = int(event["sequence"]) if event.get("sequence") else None
        new = self.db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)",
                              (source, event["id"], epoch, seq, json.dumps(event))).rowcount == 1
        if seq is not None:
            self.db.execute("INSERT OR IGNORE INTO current VALUES (?, ?)", (source, epoch))
            upto, newest = self._stream(source, epoch)
            if seq > upto:
                self.db.execute("INSERT OR IGNORE INTO ahead VALUES (?, ?, ?)", (source, epoch, seq))
                self._settle(source, epoch, upto, max(newest, seq))
        return new

    def outbox(self, source, state):
        """Takes in what the device says of its queue."""
        epoch, newest = state.get("epoch", ""), state["newest"]
        before = self.current(source)
        if before is not None and before != epoch:
            # Its database was lost or wiped: numbers start anew, and what is missing of the old ones is nowhere.
            for first, last in list(self.missing(source, before)):
                self._write_off(source, before, first, last, "the device has lost its database")
        self.db.execute("INSERT OR REPLACE INTO current VALUES (?, ?)", (source, epoch))
        upto, known = self._stream(source, epoch)
        kept_from = state["oldest_kept"] if state.get("oldest_kept") else newest + 1
        given_up = [(*span, "given up by the device") for span in state["given_up"]]
        for first, last, why in given_up + [(1, kept_from - 1, "no longer kept by the device")]:
            for gap in list(self._gaps(source, epoch, max(first, upto + 1), last)):
                self._write_off(source, epoch, *gap, why)
        # What no broker has yet is not missing: it is on its way.
        self._settle(source, epoch, upto, max(known, newest if state["pending"] == 0 else 0))

    def current(self, source):
        row = self.db.execute("SELECT epoch FROM current WHERE source = ?", (source,)).fetchone()
        return row and row[0]

    def confirmable(self):
        """Source, epoch and the number to confirm, of every device."""
        return self.db.execute("SELECT source, epoch, upto FROM streams NATURAL JOIN current ORDER BY source").fetchall()

    def missing(self, source, epoch):
        """Ranges that were sent and are not here."""
        upto, newest = self._stream(source, epoch)
        return self._gaps(source, epoch, upto + 1, newest)

    def lost(self, source, epoch):
        """Ranges that will not come any more."""
        return self.db.execute("SELECT first, last FROM lost WHERE source = ? AND epoch = ? ORDER BY first",
                               (source, epoch)).fetchall()

    def _stream(self, source, epoch):
        row = self.db.execute("SELECT upto, newest FROM streams WHERE source = ? AND epoch = ?", (source, epoch))
        return row.fetchone() or (0, 0)

    def _gaps(self, source, epoch, first, last):
        """What of `first` to `last` is neither here nor written off."""
        held = self.db.execute(
            "SELECT seq, seq FROM ahead WHERE source = :s AND epoch = :e AND seq BETWEEN :f AND :l"
            " UNION ALL SELECT first, last FROM lost WHERE source = :s AND epoch = :e AND last >= :f AND first <= :l"
            " ORDER BY 1", {"s": source, "e": epoch, "f": first, "l": last})
        for start, end in held:
            if start > first:
                yield first, start - 1
            first = max(first, end + 1)
        if first <= last:
            yield first, last

    def _write_off(self, source, epoch, first, last, why):
        self.db.execute("INSERT INTO lost VALUES (?, ?, ?, ?, ?)", (source, epoch, first, last, why))

    def _settle(self, source, epoch, upto, newest):
        """Moves `upto` to just below the first gap."""
        top = max(newest, self.db.execute("SELECT max(last) FROM lost WHERE source = ? AND epoch = ?",
                                          (source, epoch)).fetchone()[0] or 0)
        gap = next(self._gaps(source, epoch, upto + 1, top), None)
        upto = gap[0] - 1 if gap else max(upto, top)
        self.db.execute("DELETE FROM ahead WHERE source = ? AND epoch = ? AND seq <= ?", (source, epoch, upto))
        self.db.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", (source, epoch, upto, max(newest, upto)))
