"""Server addresses."""

import re
from urllib.parse import urlsplit

from fv2es.errors import UsageError


def checked_address(server: str) -> str:
    """`server`, if it is a HOST:PORT such as "localhost:8001" or "[::1]:8001".

    Raises:
        UsageError: it is not.
    """
    try:
        parts = urlsplit(f"//{server}")
        usable = bool(parts.hostname and parts.port) and parts.netloc == server and not re.search(r"[\s@]", server)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"server={server!r} must be HOST:PORT of the server's gRPC, for example localhost:8001")
    return server
