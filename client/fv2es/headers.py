"""Headers by which clients and the gate before an embedded server understand each other."""

import uuid

CLIENT_HEADER = "fv2es-client"
"""Names the client that sends a clip: an embedded server serves those that wait in turn."""
SMALL_HEADER = "fv2es-small"
"""Marks requests that need not wait where clips do: proofs of health and small questions, of up to `SMALL_BYTES`."""
SMALL_BYTES = 4_000_000
SMALL_REQUEST = {SMALL_HEADER: "1"}


def client_headers() -> dict[str, str]:
    """Headers of one client's clips."""
    return {CLIENT_HEADER: uuid.uuid4().hex}
