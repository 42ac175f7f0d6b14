"""TLS: trusted certificates and the client's certificate."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TypeAlias

__all__ = ["Certificate", "Verify", "make_tls_context"]

Verify: TypeAlias = "ssl.SSLContext | str | os.PathLike[str] | bool"
"""A file or folder of trusted certificates; True for the default ones; False for no verification; or a context."""

Certificate: TypeAlias = "str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]"
"""A client's certificate with its key in one file, or the two files."""


def make_tls_context(verify: Verify = True, cert: Certificate | None = None) -> ssl.SSLContext:
    """The context of connections to a server.

    With ``verify=True`` the variables ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name what is trusted, else certifi's list.

    Raises:
        ValueError: a file that is not there, or holds no certificates.
    """
    context = verify if isinstance(verify, ssl.SSLContext) else _context(verify)
    if cert is not None:
        files = cert if isinstance(cert, tuple) else (cert,)
        try:
            context.load_cert_chain(*(os.fspath(file) for file in files))
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(map(str, files))
            raise ValueError(f"the client certificate {names} cannot be read ({_reason(error)})") from None
    return context


def _context(verify: str | os.PathLike[str] | bool) -> ssl.SSLContext:
    if isinstance(verify, bool):
        if not verify:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if path := os.environ.get(variable):
                return _trusting(path, f"the environment variable {variable}={path}")
        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    return _trusting(os.fspath(verify), f"verify={os.fspath(verify)!r}")


def _trusting(path: str, named: str) -> ssl.SSLContext:
    """A context that trusts the certificates of a file or folder."""
    if not Path(path).exists():
        raise ValueError(f"{named}: there is no such file or folder of certificates")
    try:
        if Path(path).is_dir():
            return ssl.create_default_context(capath=path)
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{named} holds no certificates that can be read ({_reason(error)})") from None
    if not context.cert_store_stats()["x509"]:
        raise ValueError(f"{named} holds no certificates")
    return context


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
