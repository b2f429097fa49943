"""HTTP, as connectors without a library of their service speak it: certificates are checked, nothing is tried again."""

from __future__ import annotations

import urllib3

from resettle.errors import AccessError, ConnectorError, TransientError


class GarbledError(Exception):
    """An answer that is no JSON of the service: cut off, or a proxy's."""


def pool_of(connect: float, read: float, size: int = 64) -> urllib3.PoolManager:
    """Connections for ``size`` threads; they wait ``connect`` and ``read`` seconds."""
    timeout = urllib3.Timeout(connect=connect, read=read)
    return urllib3.PoolManager(maxsize=size, retries=False, timeout=timeout, cert_reqs="CERT_REQUIRED")


def unreached(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What trouble on the way to the service or back means, also where another library wraps it; None for any other."""
    cause = error if isinstance(error, urllib3.exceptions.HTTPError | GarbledError) else error.__cause__
    if isinstance(cause, urllib3.exceptions.SSLError):
        return AccessError("the service's certificate cannot be trusted", connection=connection)
    if isinstance(cause, urllib3.exceptions.HTTPError | GarbledError):
        return TransientError("the service cannot be reached, or its answer was cut off", connection=connection)
    return None
