"""Fetching a file over HTTP: resumable, retried, whole or not at all."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from .errors import UserError
from .files import write_json
from .progress import progress

CHUNK = 1 << 20  # bytes
TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds between two bytes
OWN = ("localhost", "127.0.0.1", "::1")  # names of this machine


def _passing(error: BaseException) -> bool:
    """Whether trying again can help: dropped connections, time-outs, 5xx and 429, but not a 404."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    refused = isinstance(error, (InsecureError, requests.exceptions.SSLError, requests.exceptions.TooManyRedirects))
    return isinstance(error, (requests.RequestException, IncompleteError)) and not refused


class InsecureError(requests.RequestException):
    """An address that anybody on the way could answer for."""


class Secure(requests.Session):
    """Requests by https with the certificate checked, redirected ones too; by http to this machine alone."""

    def __init__(self, url: str) -> None:
        """For requests that begin at ``url``."""
        super().__init__()
        parts = urlsplit(url)
        self._own = parts.scheme == "http" and parts.hostname in OWN

    def get_adapter(self, url: str) -> requests.adapters.BaseAdapter:
        """Called for each request, with the address in use."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (self._own and parts.hostname in OWN):
            raise InsecureError(f"{url} is no https:// address")
        return super().get_adapter(url)


class IncompleteError(OSError):
    """The connection ended before the announced number of bytes."""


def fetch(url: str, path: Path, *, attempts: int = 5, longest_wait: float = 30.0) -> None:
    """Fetch ``url`` into ``path``.

    What has arrived stays in ``path`` + ``.partial`` when the fetch fails or is killed, and the next call asks
    only for the rest (HTTP ``Range`` with ``If-Range``, so that a file changed in between starts afresh).

    Raises
    ------
    UserError
        When the address cannot be reached; for errors that can pass, after ``attempts`` tries in a row that brought
        nothing new.
    """
    partial = path.with_name(path.name + ".partial")
    most, fruitless = 0, 0

    def given_up(_: RetryCallState) -> bool:
        nonlocal most, fruitless
        size = partial.stat().st_size if partial.exists() else 0
        most, fruitless = max(most, size), 0 if size > most else fruitless + 1
        return fruitless >= attempts

    retrying = Retrying(
        retry=retry_if_exception(_passing),
        stop=given_up,
        wait=wait_exponential_jitter(multiplier=min(1.0, longest_wait), max=longest_wait),
        reraise=True,
    )
    try:
        retrying(_fetch_rest, url, path, partial)
    except (requests.RequestException, IncompleteError) as error:
        raise UserError(
            f"cannot fetch {url}: {_reason(error)}; check the address and the network and run again "
            "(what has arrived is kept)"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}".strip()
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate was not accepted"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return "the server redirects without end"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)


def _fetch_rest(url: str, path: Path, partial: Path) -> None:
    stamp_file = partial.with_name(partial.name + ".json")
    stamp = _stamp(stamp_file)
    start = partial.stat().st_size if partial.exists() and stamp.get("url") == url else 0
    # Transparent decompression would make the byte counts meaningless.
    headers = {"Accept-Encoding": "identity"}
    asked = bool(start and stamp.get("validator"))
    if asked:
        headers |= {"Range": f"bytes={start}-", "If-Range": stamp["validator"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with Secure(url) as session, session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and start == stamp.get("length"):
            answer.close()
        elif answer.status_code == 416:
            partial.unlink(missing_ok=True)
            raise IncompleteError("what had arrived does not fit the file; it was removed")
        else:
            answer.raise_for_status()
            resumed = answer.status_code == 206
            if resumed and not (asked and _goes_on(answer, start, stamp)):
                partial.unlink(missing_ok=True)  # so that the next try asks for the whole file
                raise IncompleteError("the server sent another part of the file than it was asked for")
            if not resumed:
                start = 0
                partial.unlink(missing_ok=True)  # before the stamp, which must never be that of other bytes
            announced = answer.headers.get("Content-Length")
            length = start + int(announced) if announced is not None else None
            etag = answer.headers.get("ETag", "")
            # Only a strong validator may stand in If-Range (RFC 9110, 13.1.5).
            validator = answer.headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
            write_json(stamp_file, {"url": url, "validator": validator, "length": length}, recorded=False)
            with open(partial, "ab") as file, progress(total=length, what=f"fetching {path.name}", unit="B") as bar:
                bar.update(start)
                try:
                    # As it comes: what waits in a buffer when the connection drops would be lost.
                    while chunk := answer.raw.read1(CHUNK):
                        file.write(chunk)
                        bar.update(len(chunk))
                except urllib3.exceptions.ReadTimeoutError as error:
                    raise requests.Timeout() from error
                except urllib3.exceptions.HTTPError as error:
                    raise IncompleteError("the connection ended early") from error
            if length is not None and partial.stat().st_size != length:
                raise IncompleteError(f"got {partial.stat().st_size} of {length} bytes")
    partial.replace(path)
    stamp_file.unlink(missing_ok=True)


def _stamp(path: Path) -> dict[str, Any]:
    """What is known of the bytes that have arrived; nothing where that is damaged, so that they are fetched anew."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _goes_on(answer: requests.Response, start: int, stamp: dict[str, Any]) -> bool:
    """Whether a part of a file (206) begins where ours ends, and is of a file of the same length."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != start:
        return False
    return found[2] == "*" or stamp.get("length") in (None, int(found[2]))


def fetch_text(url: str, near: Path) -> str:
    """The text at ``url``, fetched through a passing file beside ``near``."""
    passing = near.with_name(near.name + ".text")
    try:
        fetch(url, passing)
        return passing.read_text(encoding="utf-8", errors="replace")
    finally:
        for path in near.parent.glob(passing.name + "*"):
            path.unlink()
