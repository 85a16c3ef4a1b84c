"""Stage ``download``: a source's CID<TAB>SMILES file, gzip-compressed."""

import gzip
import hashlib
import re
from pathlib import Path
from typing import Literal

from ..runtime.errors import UserError
from ..runtime.files import finish, whole
from ..runtime.http import fetch, fetch_text


def download(*, kind: Literal["pubchem", "nci"], out: Path, url: str = "", md5_url: str = "") -> None:
    """Bring a source's molecules here.

    Parameters
    ----------
    kind
        pubchem: fetch ``url``, resuming what an earlier call left; nci: the molecules embedded in RDKit.
    out
        Where the gzip-compressed CID<TAB>SMILES file goes; it appears whole or not at all. A file there that has the
        published md5 sum is left as it is, any other one is replaced when the new one is whole.
    url
        Address of the file.
    md5_url
        Address of its published md5 sum; empty to go without the check.

    Raises
    ------
    UserError
        When an address cannot be reached, or the file does not have the published md5 sum.
    """
    if kind == "nci":
        write_embedded(out)
        return
    published = None
    if md5_url:
        published = re.search(r"\b[0-9a-fA-F]{32}\b", fetch_text(md5_url, out))
        if published is None:
            raise UserError(f"no md5 sum at {md5_url}: correct md5_url, or set it to null to go without")
        if out.is_file() and _md5(out) == published[0].lower():
            print(f"{out} has the md5 that is published at {md5_url}: nothing to fetch")
            return
    arrived = out.with_name(out.name + ".arrived")
    if not (published and arrived.exists()):  # else an earlier call was killed before the check
        fetch(url, arrived)
    if published:
        found = _md5(arrived)
        if found != published[0].lower():
            arrived.unlink()
            raise UserError(
                f"{url} has md5 {found}, but {published[0].lower()} is published at {md5_url}; "
                "the copy was removed: run again to fetch it anew"
            )
    finish(arrived, out)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def write_embedded(out: Path) -> None:
    """Write the NCI molecules of RDKit's own test data (``first_5K.smi``) in PubChem's form."""
    from rdkit import RDConfig

    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii").splitlines()
    with (
        whole(out) as part,
        open(part, "wb") as raw,
        # No time and no name in the header: the same bytes every time.
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file,
    ):
        for line in lines:
            smiles, number = line.split("\t")
            file.write(f"{number}\t{smiles}\n".encode("ascii"))
