"""Fetching a file over HTTP: resumable, retried, whole or not at all."""

import json
from pathlib import Path
from typing import Any

import requests
import urllib3
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from .errors import UserError
from .progress import progress

CHUNK = 1 << 20  # bytes
TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds between two bytes


def _passing(error: BaseException) -> bool:
    """Whether trying again can help: dropped connections, time-outs, 5xx and 429, but not a 404."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    refused = isinstance(error, (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects))
    return isinstance(error, (requests.RequestException, IncompleteError)) and not refused


class IncompleteError(OSError):
    """The connection ended before the announced number of bytes."""


def fetch(url: str, path: Path, *, attempts: int = 5, longest_wait: float = 30.0) -> None:
    """Fetch ``url`` into ``path``.

    What has arrived stays in ``path`` + ``.partial`` when the fetch fails or is killed, and the next call asks
    only for the rest (HTTP ``Range`` with ``If-Range``, so that a file changed in between starts afresh).

    Raises
    ------
    UserError
        When the address cannot be reached, after ``attempts`` tries for errors that can pass.
    """
    retrying = Retrying(
        retry=retry_if_exception(_passing),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential_jitter(multiplier=min(1.0, longest_wait), max=longest_wait),
        reraise=True,
    )
    try:
        retrying(_fetch_rest, url, path)
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


def _fetch_rest(url: str, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    stamp_file = path.with_name(path.name + ".partial.json")
    stamp: dict[str, Any] = json.loads(stamp_file.read_text()) if stamp_file.exists() else {}
    start = partial.stat().st_size if partial.exists() and stamp.get("url") == url else 0
    # Transparent decompression would make the byte counts meaningless.
    headers = {"Accept-Encoding": "identity"}
    if start and stamp.get("validator"):
        headers |= {"Range": f"bytes={start}-", "If-Range": stamp["validator"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and start == stamp.get("length"):
            answer.close()
        elif answer.status_code == 416:
            partial.unlink()
            raise IncompleteError("what had arrived does not fit the file; it was removed")
        else:
            answer.raise_for_status()
            resumed = answer.status_code == 206
            start = start if resumed else 0
            announced = answer.headers.get("Content-Length")
            length = start + int(announced) if announced is not None else None
            etag = answer.headers.get("ETag", "")
            # Only a strong validator may stand in If-Range (RFC 9110, 13.1.5).
            validator = answer.headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
            stamp_file.write_text(json.dumps({"url": url, "validator": validator, "length": length}))
            with (
                open(partial, "ab" if resumed else "wb") as file,
                progress(total=length, what=f"fetching {path.name}", unit="B") as bar,
            ):
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


def fetch_text(url: str, near: Path) -> str:
    """The text at ``url``, fetched through a passing file beside ``near``."""
    passing = near.with_name(near.name + ".text")
    try:
        fetch(url, passing)
        return passing.read_text(encoding="utf-8", errors="replace")
    finally:
        for path in near.parent.glob(passing.name + "*"):
            path.unlink()
