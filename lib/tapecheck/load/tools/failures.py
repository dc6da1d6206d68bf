"""Says which of our kinds of error a tool's own message is. It counts nothing."""

import re

from tapecheck.load.samples import ErrorKind

_MESSAGES = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"connection ?refused", ErrorKind.connect_refused),
        (r"too many open files|cannot assign requested address", ErrorKind.local),
        (r"no such host|no route to host|network is unreachable|gaierror|name or service not known", ErrorKind.unreachable),
        (r"tls:|x509:|certificate|SSLError", ErrorKind.tls),
        (r"dial.*(i/o timeout|deadline exceeded)|ConnectTimeout", ErrorKind.connect_timeout),
        (r"BadStatusCode|HTTPError|^\d{3} [A-Z]", ErrorKind.status),
        (r"CatchResponseError", ErrorKind.content),
        (r"timeout|timed out|deadline exceeded", ErrorKind.timeout),
        (r"connection ?reset|broken ?pipe", ErrorKind.reset),
        (r"EOF|server closed|RemoteDisconnected|ConnectionClosed|IncompleteRead", ErrorKind.closed_early),
        (r"malformed HTTP|HTTPParseError", ErrorKind.protocol),
    )
)  # as Go's net/http says it, on which k6, vegeta and hey are built, and as Python's clients do; the first that fits


def kind_of(message: str, status: int = 0) -> ErrorKind:
    """Return the kind of a failure from its message and, where an answer came, its status."""
    if status and is_failure(status):
        return ErrorKind.status
    return next((kind for pattern, kind in _MESSAGES if pattern.search(message)), ErrorKind.other)


def is_failure(status: int) -> bool:
    """Tell whether an answer is a failure, where the tool leaves that to its reader: anything but 200 to 399."""
    return not 200 <= status < 400
