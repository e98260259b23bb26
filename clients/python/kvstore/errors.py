# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, one class per status of kvstore.h. A cache may always miss: an engine that
catches `Error` and computes is right."""


class Error(Exception):
    """Base of all. `status` is the stable number of kvstore.h."""

    status = 0


class Busy(Error):
    """No room or no slot; nothing was queued."""

    status = 3


class TooLarge(Error):
    """Over the daemon's chunk limit: use smaller chunks."""

    status = 4


class DeadlineExceeded(Error, TimeoutError):
    """Could not be done in time."""

    status = 5


class ChecksumMismatch(Error):
    """The daemon received damaged bytes; nothing was stored."""

    status = 6


class Unauthorized(Error):
    """Wrong namespace or token."""

    status = 7


class Unsupported(Error):
    """Not offered by this daemon, or not on this connection."""

    status = 8


class Malformed(Error):
    """The daemon did not understand the client: a defect."""

    status = 9


class VersionMismatch(Error):
    """Client and daemon have no protocol version in common."""

    status = 10


class HelloRequired(Error):
    """A defect of the client."""

    status = 11


class NoLease(Error):
    """Lease or reservation unknown or expired."""

    status = 12


class ShuttingDown(Error):
    """The daemon stops."""

    status = 13


class LimitExceeded(Error):
    """A count is over what the daemon allows."""

    status = 14


class LayoutMismatch(Error):
    """The chunk has another layout."""

    status = 15


class Internal(Error):
    """A defect of the daemon, or a status this client does not know."""

    status = 16


class NotDurable(Error):
    """Done in memory, but a restart of the daemon may undo it."""

    status = 17


class CannotConnect(Error, ConnectionError):
    """Nobody listens, or the last attempt failed a moment ago."""

    status = 1000


class ConnectionLost(Error, ConnectionError):
    """Closed in the middle of a call; the next call connects again."""

    status = 1001


class InvalidArgument(Error, ValueError):
    """The call makes no sense."""

    status = 1002


class OutOfMemory(Error, MemoryError):
    """The client could not get memory."""

    status = 1003


class Forked(Error):
    """Belongs to the parent process."""

    status = 1004


class DestinationTooSmall(Error, ValueError):
    """`byte_count` is the size that is needed."""

    status = 1005
    byte_count = 0


class Damaged(Error):
    """Received bytes do not match their checksum."""

    status = 1006


class ProtocolError(Error):
    """The daemon breaks the protocol; the connection was closed."""

    status = 1007


class LeaseEnded(Error):
    """What was read under this lease must not be used."""

    status = 1008


class WrongState(Error):
    """Not now: closed, or another use is under way."""

    status = 1009


class SystemRefused(Error, OSError):
    """The operating system refused."""

    status = 1010


class NotDecoded(Error):
    """The codec refuses a container, a profile or a payload. `reason`: its word for why."""

    status = 1011

    def __init__(self, text, reason=""):
        super().__init__(text)
        self.reason = reason


_BY_STATUS = {kind.status: kind for kind in Error.__subclasses__()}


def error_for(status, text):
    """The exception for a status, with a text that says what to do."""
    return _BY_STATUS.get(status, Error)(text)
