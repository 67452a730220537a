"""Why there is no connection, or no permission, in words on stderr; and how soon to try again.

Nothing here is of Vedette: a client that says nothing when a broker refuses it looks like one that has nothing to do.
"""
import sys
import time

OWN_NAME = ("each program needs its own (--client-id), and a broker user of its own where the broker makes identifiers of user "
            "names")
# What a reason has in it, and what to do then. The first that fits.
REMEDIES = [
    ("CERTIFICATE_REQUIRED", "the broker asks for a client certificate: --cert and --key"),
    ("CERTIFICATE_EXPIRED", "the broker says that the certificate in --cert has expired"),
    ("CERTIFICATE_REVOKED", "the broker says that the certificate in --cert is revoked"),
    ("ALERT_UNKNOWN_CA", "the broker does not know the authority that signed the certificate in --cert"),
    ("ALERT_DECRYPT_ERROR", "the certificate in --cert is not signed by the authority that the broker knows by that name"),
    ("ALERT_BAD_CERTIFICATE", "the broker does not accept the certificate in --cert"),
    ("UNSUPPORTED_CERTIFICATE", "the broker does not accept the certificate in --cert (X.509 version 1, or of another use?)"),
    ("HANDSHAKE_FAILURE", "the broker may ask for a client certificate: --cert and --key"),
    ("unable to get local issuer", "the broker's certificate is not signed by an authority in --cafile"),
    ("signature failure", "the broker's certificate is not signed by an authority in --cafile"),
    ("self-signed certificate", "the broker's certificate is not signed by an authority in --cafile"),
    ("mismatch", "--host must be one of the names or addresses in the broker's certificate (subject alternative names)"),
    ("has expired", "the broker's certificate has expired, or this machine's clock is wrong"),
    ("not yet valid", "the broker's certificate is not valid yet, or this machine's clock is wrong"),
    ("WRONG_VERSION_NUMBER", "what listens there may not speak TLS: leave --cafile out, or name another --port"),
    ("Session taken over", f"another client uses this client identifier: {OWN_NAME}"),
    ("without a word", f"it was stopped, or another client uses this client identifier: {OWN_NAME}"),
    ("Bad user name or password", "the broker does not know this --user with this password"),
    ("Not authorized", "the broker does not know this user, or its certificate, or does not let it in"),
    ("EOF occurred", "what listens there may not speak TLS (leave --cafile out, or name another --port), or does not accept the "
     "certificate in --cert; its log says which"),
    ("before the broker answered", "is --port right, and does one side speak TLS (--cafile, --cert, --key) and the other not?"),
]


def with_remedy(reason):
    found = next((remedy for sign, remedy in REMEDIES if sign.lower() in reason.lower()), None)
    return f"{reason}: {found}" if found else reason


def say(text):
    print(text, file=sys.stderr, flush=True)


class Trouble:
    """Says every new reason once, and waits longer after each failure. A connection that lasts makes both begin anew."""

    LASTS_S, LONGEST_S = 30.0, 60.0

    def __init__(self, first_wait_s):
        self.first_wait_s = self.wait_s = first_wait_s
        self.known, self.since = set(), None

    def connected(self, to):
        self.since = time.monotonic()
        if self.known:
            self.once(f"connected to {to}")

    def once(self, reason):
        """Says it unless it was said."""
        if reason not in self.known:
            self.known.add(reason)
            say(reason)

    def lost(self, reason):
        """Says why a connection ended or did not come about; how many seconds to wait before the next."""
        if self.since is not None and time.monotonic() - self.since > self.LASTS_S:
            self.known.clear()
            self.wait_s = self.first_wait_s
        self.since = None
        self.once(f"no connection: {with_remedy(reason)}; trying again")
        wait_s, self.wait_s = self.wait_s, min(2 * self.wait_s, self.LONGEST_S)
        return wait_s
