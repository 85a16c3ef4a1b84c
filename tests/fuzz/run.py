"""Coverage-guided search for files that harm one reader, by hand: python tests/fuzz/run.py READER [--seconds 60].

Atheris (libFuzzer for Python) changes files such that they reach lines of ocsrflow that no file has reached before.
It is no dependency of the project: ``pip install atheris`` beside it. A file that crashes the reader, takes too long or
too much memory is left in ``corpus/READER``, where the tests read it from then on: give it a name that says what it is.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

try:
    import atheris
except ImportError:
    sys.exit("tests/fuzz/run.py: error: atheris is not there: pip install atheris")

with atheris.instrument_imports(include=["ocsrflow"]):
    from readers import READERS, SEEDS
    from sandbox import ADDRESS_SPACE, SECONDS, attempt

LONGEST = 1 << 16  # bytes of a file


def main() -> None:
    """Search until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    reader = READERS[given.reader]
    kept = HERE / "corpus" / given.reader
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ocsrflow-fuzz-") as name:
        folder = Path(name)
        for number, seed in enumerate(SEEDS[given.reader]()):
            (folder / str(number)).write_bytes(seed)
        file = Path(tempfile.mkdtemp(dir=folder)) / "file"

        def read(data: bytes) -> None:
            file.write_bytes(data)
            outcome = attempt(reader.read, file, reader.refusals, reader.lines)
            if not outcome.harmless:
                raise AssertionError(f"{outcome.kind}: {outcome.detail}")

        options = [
            f"-max_total_time={given.seconds}",
            f"-timeout={SECONDS:.0f}",
            f"-rss_limit_mb={ADDRESS_SPACE >> 20}",
            f"-max_len={LONGEST}",
            f"-artifact_prefix={kept}{os.sep}found-",
            "-close_fd_mask=1",  # what the stages say of their work
        ]
        atheris.Setup([sys.argv[0], *options, str(folder), str(kept)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
