"""What is fetched comes by https, from whom it should, unchanged."""

import datetime
import hashlib
import http.server
import ipaddress
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ocsrflow.config import experiment as configuration
from ocsrflow.corpus.download import download
from ocsrflow.network import weights as stage
from ocsrflow.network.encoders import RECIPES
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.http import fetch
from support.checkout import CONFIG, REPOSITORY
from support.servers import Server
from support.waiting import PATIENCE
from torchvision.models import WeightsEnum

ELSEWHERE = "http://192.0.2.1"  # an address that nobody has (RFC 5737)


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    kind = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    )
    return path


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends everybody to where the path says; /file is a file."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/file":
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
        else:
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """An https server on this machine: address, certificate, the paths that it was asked for."""
    path = certificate(tmp_path)
    handler = type("Handler", (Redirecting,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}", path, handler.asked
    server.shutdown()


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(
    secure: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    url, _, asked = secure
    out = tmp_path / "out/c.gz"
    command = [
        sys.executable,
        "-m",
        "ocsrflow",
        "download",
        "--kind",
        "pubchem",
        "--url",
        f"{url}/file",
        "--out",
        str(out),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        f"ocsrflow download: error: cannot fetch {url}/file: the server's certificate was not accepted; check the "
        "address and the network and run again (what has arrived is kept)"
    ]
    assert asked == []
    assert not out.exists()


def test_https_leads_to_no_http(
    secure: tuple[str, Path, list[str]], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, path, asked = secure
    server.files = {"/file": b"ok"}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))  # trusted, as a group's own authority would be
    fetch(f"{url}/to/{url}/file", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"ok"
    for target in (f"{ELSEWHERE}/file", f"{server.url}/file", "ftp://127.0.0.1/file", "file:///etc/passwd"):
        with pytest.raises(UserError, match="is no https:// address"):
            fetch(f"{url}/to/{target}", tmp_path / "b")
    assert server.requests == []
    assert not (tmp_path / "b").exists()
    assert len(asked) == 6  # none was tried again


def test_http_is_for_this_machine_alone(server: Server, tmp_path: Path) -> None:
    server.files = {"/file": b"ok"}
    fetch(f"{server.url}/file", tmp_path / "a")
    for url in (
        f"{ELSEWHERE}/file",
        "http://127.0.0.1.example.org/file",
        "http://localhost@192.0.2.1/file",
        "ftp://x/y",
    ):
        with pytest.raises(UserError, match="is no https:// address"):
            fetch(url, tmp_path / "b")
    config = yaml.safe_load((REPOSITORY / CONFIG).read_text())
    for key in ("url", "md5_url"):
        for url in ("http://ftp.ncbi.nlm.nih.gov/c.gz", "ftp://ftp.ncbi.nlm.nih.gov/c.gz", "file:///etc/passwd"):
            config["sources"] = [{"name": "nci", "kind": "pubchem", "url": "https://x/y", key: url}]
            with pytest.raises(UserError, match=rf"sources\.0\.{key}: an https:// address"):
                configuration.load(config)


def test_what_has_another_checksum_than_the_published_one_is_removed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"/c.gz": b"changed", "/c.gz.md5": hashlib.md5(b"published").hexdigest().encode()}
    with pytest.raises(UserError, match=r"has md5 .* is published"):
        download(kind="pubchem", out=tmp_path / "c.gz", url=f"{server.url}/c.gz", md5_url=f"{server.url}/c.gz.md5")
    server.files["/resnet18-f37072fd.pth"] = b"changed"
    name = "resnet18-f37072fd.pth"
    monkeypatch.setattr(stage, "published", lambda _: (f"{server.url}/{name}", name))
    with pytest.raises(UserError, match="its SHA-256 should start with f37072fd"):
        stage.weights("resnet18", out=tmp_path / "w.pth", folder=tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_weights_without_a_published_checksum_are_known() -> None:
    """docs/security.md names them."""
    without = {name for name, recipe in RECIPES.items() if not isinstance(recipe.weights, WeightsEnum)}
    text = (REPOSITORY / "docs/security.md").read_text()
    assert without
    assert {name for name in RECIPES if f"`{name}`" in text} == without
