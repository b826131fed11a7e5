"""TLS by certificate files: what the market checks before it listens, and what its clients trust.

Clients trust what the machine trusts and, where one is named, a file of certificates: a CA's, or the market's own (that
is how a self-signed one is used). Names and dates are checked always; nothing turns that off.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage.trust import client_context

__all__ = ["TlsFiles", "TlsRefused", "check_files", "client_context", "now_utc", "reason_of", "server_context"]

EXPIRED, NOT_YET, UNTRUSTED, OTHER_NAME = 10, 9, (18, 19, 20, 21), (62, 64)
_TRUST = "name the market's certificate, or its CA's, by --ca FILE or TORG_CA"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The market's certificate (with its chain) and key, PEM."""

    certificate: Path
    key: Path


class TlsRefused(Exception):
    """The files cannot be used; `field` is the option that is wrong."""

    def __init__(self, message: str, *, field: str = "--tls-cert", remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy


def check_files(files: TlsFiles, host: str, now: datetime) -> str:
    """The name by which clients reach the market: `host` if the certificate is for it, else the first name in it.

    Raises TlsRefused: not readable, not PEM, a key that others may read or of another certificate, not valid now.
    """
    from cryptography import x509

    content = _read(files.certificate, "--tls-cert")
    _read(files.key, "--tls-key")
    if files.key.stat().st_mode & 0o007:
        raise TlsRefused(f"{files.key} can be read by everybody", field="--tls-key", remedy=f"chmod 600 {files.key}")
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise TlsRefused(f"{files.certificate} holds no certificate in PEM") from error
    if now > certificate.not_valid_after_utc:
        until = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise TlsRefused(f"{files.certificate} has expired on {until}", remedy="renew it")
    if now < certificate.not_valid_before_utc:
        since = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise TlsRefused(f"{files.certificate} is not valid before {since}", remedy="look at this machine's clock")
    try:
        server_context(files)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"{files.key} is not the key of {files.certificate}"
        else:
            message = f"{files.key} is no key in PEM without a password"
        raise TlsRefused(message, field="--tls-key") from error
    names = _names(certificate)
    if host in names:
        return host
    whole = [name for name in names if "*" not in name]
    if not whole:
        remedy = f"make one with {host} among its subject alternative names"
        raise TlsRefused(f"{files.certificate} names no host by which clients could reach the market", remedy=remedy)
    return whole[0]


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 and newer with these files; raises OSError and SSLError. A key with a password is refused, not asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    return context


def reason_of(error: BaseException) -> tuple[str, str] | None:
    """What is wrong and what would do, where TLS is behind a failed connection; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return _verification(seen)
        text = str(seen)
        if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
            return "it does not speak TLS", "say http:// instead of https://"
        seen = seen.__cause__ or seen.__context__
    return None


def _verification(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    if error.verify_code == EXPIRED:
        return "its certificate has expired", "the operator renews it and starts the market again"
    if error.verify_code == NOT_YET:
        return "its certificate is not valid yet", "look at this machine's clock"
    if error.verify_code in OTHER_NAME:
        return f"its certificate is for another name: {error.verify_message}", "use the name in its certificate"
    if error.verify_code in UNTRUSTED:
        return "its certificate is signed by nobody that this machine trusts", _TRUST
    return f"its certificate is refused: {error.verify_message}", _TRUST


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsRefused(f"{path} cannot be read: {error.strerror}", field=field) from error


def _names(certificate: object) -> list[str]:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(ipaddress.ip_address(str(one))) for one in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses]


def now_utc() -> datetime:
    """The wall clock, for `check_files`."""
    return datetime.now(UTC)
