"""Members of archives are read, never written to the disk, whatever they are called."""

import ast
import io
import stat
import zipfile
from pathlib import Path

import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.corpus.picture_folder import PictureFolder
from ocsrflow.pictures.benchmark_set import benchmark_set
from ocsrflow.pictures.packed_file import Packed
from PIL import Image, ImageDraw
from support.checkout import REPOSITORY

NAMES = ("../../up.png", "/root.png", "plain.png")


def test_nothing_unpacks_an_archive() -> None:
    """Not by zipfile, nor by tarfile or shutil; members are opened one by one."""
    forbidden = {"extract", "extractall", "unpack_archive"}
    modules = sorted((REPOSITORY / "workflow").rglob("*.py"))
    assert len(modules) > 100
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in forbidden, f"{path}:{node.lineno}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "tarfile" not in ast.unparse(node), f"{path}:{node.lineno}"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip archive with members that lead elsewhere, by their names and as a link."""
    image = Image.new("RGB", (80, 80), "white")
    ImageDraw.Draw(image).line((10, 60, 40, 20, 70, 60), fill="black", width=2)
    data = io.BytesIO()
    image.save(data, "PNG")
    image.save(tmp_path / "secret.png")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as file:
        for name in NAMES:
            file.writestr(name, data.getvalue())
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, str(tmp_path / "secret.png"))
    return tmp_path / "pictures.zip"


def test_members_with_paths_are_read_from_the_archive_and_links_lead_nowhere(archive: Path) -> None:
    folder = archive.parent
    (folder / "t.csv").write_text("file_name,SMILES\n" + "".join(f"{name},CCO\n" for name in (*NAMES, "link.png")))
    before = set(folder.rglob("*")) | set(Path("/").glob("root.png")) | set(folder.parent.glob("up.png"))
    pictures = PictureFolder(archive)
    assert [pictures.read(name).size for name in NAMES] == [(80, 80)] * 3
    with pytest.raises(ValueError, match=r"'link\.png' cannot be read"):
        pictures.read("link.png")
    made = {name: folder / f"made-{name}" for name in ("kept", "lengths", "rejects", "out", "originals", "left")}
    filter_corpus(
        folder / "t.csv", form="pictures", max_length=9, pictures=archive,
        kept=made["kept"], lengths=made["lengths"], rejects=made["rejects"],
    )  # fmt: skip
    benchmark_set(
        archive, folder / "t.csv", name="b", out=made["out"], originals=made["originals"], rejects=made["left"],
        id_column="file_name", smiles_column="SMILES", depiction=Depiction(size=64),
    )  # fmt: skip
    assert list(Packed(made["out"]).cid) == [2, 3]  # a name that begins with a dot is that of a hidden file
    assert 'unreadable,1,"link.png: not a picture' in made["left"].read_text()
    after = set(folder.rglob("*")) | set(Path("/").glob("root.png")) | set(folder.parent.glob("up.png"))
    assert after - before == set(made.values())
