"""The certificates of one control plane: an authority made on the spot, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True)
class KeyPair:
    """Paths of a PEM certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """Signs server and client certificates; what it makes, and its own key, lie as PEM files in its folder, for who comes later."""

    def __init__(self, folder: Path, name: str = "jitney-throwaway") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._name = _name(name)
        self.certificate, key = folder / "ca.crt", folder / "ca.key"
        if self.certificate.is_file() and key.is_file():
            self._key = _read_key(key)
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        _write_key(key, self._key)
        _write_certificate(self.certificate, self._certificate_of_itself())

    def _certificate_of_itself(self) -> x509.Certificate:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(usage, critical=True)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, *, groups: tuple[str, ...] = (), hosts: tuple[str, ...] = (), file: str | None = None) -> KeyPair:
        """A pair for common name `name`; Kubernetes reads groups from the organisations, clients match `hosts` (names or addresses)."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name, groups), self._name, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(USAGES), critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        pair = KeyPair(self.folder / f"{file or name}.crt", self.folder / f"{file or name}.key")
        _write_certificate(pair.certificate, builder.sign(self._key, hashes.SHA256()))
        _write_key(pair.key, key)
        return pair


def service_account_key(folder: Path) -> Path:
    """The private key that signs service account tokens (the API server derives the public half)."""
    path = folder / "service-accounts.key"
    _write_key(path, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # An hour back: the clock of a virtual machine may have been set meanwhile.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )


def _name(common: str, groups: tuple[str, ...] = ()) -> x509.Name:
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds no key of ours")
    return key


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(pem)
