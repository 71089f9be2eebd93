"""UIDs that follow from what they stand for."""

import hashlib
import uuid


def derived_uid(*parts: str | bytes) -> str:
    """Give the UID (2.25., from a UUID) that belongs to ``parts``: always the same for the same."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"
