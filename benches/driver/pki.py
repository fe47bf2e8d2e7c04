"""Keys and certificates of one run: P-256, one CA for the server, one for partners."""

from __future__ import annotations

from pathlib import Path

from .machine import output_of

HOST = "api.bench.example"
LEAF = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"


def make(folder: Path) -> None:
    """server.pem with server.key, and client certificates of one CA for two partners and a stranger."""
    folder.mkdir()
    for ca in ("server-ca", "partner-ca"):
        _key(folder, ca)
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        options = [option for extension in extensions for option in ("-addext", extension)]
        _openssl(
            folder,
            "req",
            "-x509",
            "-key",
            f"{ca}.key",
            "-subj",
            f"/CN=bench {ca}",
            "-days",
            "30",
            *options,
            "-out",
            f"{ca}.pem",
        )
    _leaf(folder, "server", "server-ca", f"{LEAF}extendedKeyUsage=serverAuth\nsubjectAltName=DNS:{HOST},IP:127.0.0.1\n")
    for client in ("acme", "globex", "stranger"):
        usage = f"extendedKeyUsage=clientAuth\nsubjectAltName=URI:spiffe://bench.example/{client}\n"
        _leaf(folder, client, "partner-ca", LEAF + usage)
    # HAProxy wants both in one file.
    together = (folder / "server.pem").read_text() + (folder / "server.key").read_text()
    (folder / "server-with-key.pem").write_text(together)


def _leaf(folder: Path, name: str, ca: str, extensions: str) -> None:
    _key(folder, name)
    (folder / f"{name}.cnf").write_text(extensions)
    _openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
    _openssl(
        folder,
        "x509",
        "-req",
        "-in",
        f"{name}.csr",
        "-CA",
        f"{ca}.pem",
        "-CAkey",
        f"{ca}.key",
        "-days",
        "30",
        "-extfile",
        f"{name}.cnf",
        "-out",
        f"{name}.pem",
    )


def _key(folder: Path, name: str) -> None:
    _openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
    (folder / f"{name}.key").chmod(0o600)


def _openssl(folder: Path, *arguments: str) -> None:
    files = {"-out", "-key", "-in", "-CA", "-CAkey", "-extfile"}
    placed = [
        str(folder / word) if before in files else word
        for before, word in zip(("", *arguments[:-1]), arguments, strict=True)
    ]
    output_of(["openssl", *placed])
