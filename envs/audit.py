"""Ask whether a vulnerability is known of a package in the lock files: ``python envs/audit.py``.

pip-audit asks PyPI, or else OSV (osv.dev); nothing is installed. Exit status: 0 where none is known, and, with a line
that says so, where no database can be asked; 1 where one is known.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCKS = [ROOT / "requirements.lock", ROOT / "envs/bootstrap.lock"]
PROBE = "requests"  # a package that every database knows
SECONDS = 15  # that a database may take for an answer


def asked(locks: list[Path], database: list[str]) -> list[dict[str, Any]]:
    """What a database says of each package.

    Raises
    ------
    ValueError
        Where it cannot be asked, with the reason. One that knows no package at all is none: a mirror of PyPI may have
        nothing but the packages, and pip-audit then finds nothing wrong.
    """
    files = [word for lock in locks for word in ("--requirement", str(lock))]
    options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *files, *options, "--timeout", str(SECONDS), *database]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(told.stdout)["dependencies"]
    except ValueError:
        last = (told.stderr.strip() or "it said nothing").splitlines()[-1]
        away = "ConnectionError" in last or "Timeout" in last
        raise ValueError("no connection" if away else last[:200]) from None
    if all("skip_reason" in package for package in found):
        raise ValueError(f"it does not know {found[0]['name']}")
    return found


def report(found: list[dict[str, Any]], database: str) -> int:
    """Print what is known; the exit status."""
    unknown = [package["name"] for package in found if "skip_reason" in package]
    hit = [package for package in found if package.get("vulns")]
    for package in hit:
        for one in package["vulns"]:
            mend = ", ".join(one["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {one['id']} (mended in {mend}): {one['description'][:300]}")
    if unknown:
        print(f"audit: {len(unknown)} packages are unknown to {database}: {', '.join(unknown)}")
    if hit:
        names = ", ".join(package["name"] for package in hit)
        print(f"audit: vulnerabilities are known of {names}; make lock takes newer versions", file=sys.stderr)
        return 1
    print(f"audit: {database} knows no vulnerability of {len(found) - len(unknown)} packages")
    return 0


def probe(lock: Path, folder: Path) -> Path:
    """A lock file of one package, so that it is soon known whether a database answers."""
    entries = re.split(r"\n(?=[a-z0-9])", lock.read_text(encoding="utf-8"))
    path = folder / "probe.lock"
    path.write_text(next(entry for entry in entries if entry.startswith(f"{PROBE}==")) + "\n", encoding="utf-8")
    return path


def main() -> int:
    """Ask the first database that answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--osv-url", help="ask this OSV database alone")
    url = parser.parse_args().osv_url
    if find_spec("pip_audit") is None:
        sys.exit("audit: error: pip-audit is not installed: make setup")
    osv = ["--vulnerability-service", "osv"]
    databases = {"PyPI": ["--vulnerability-service", "pypi"], "OSV": osv}
    if url:
        databases = {url: [*osv, "--osv-url", url]}
    reasons = []
    for name, options in databases.items():
        try:
            with tempfile.TemporaryDirectory() as folder:
                asked([probe(LOCKS[0], Path(folder))], options)
        except ValueError as error:
            reasons.append(f"{name}: {error}")
            continue
        try:
            return report(asked(LOCKS, options), name)
        except ValueError as error:
            sys.exit(f"audit: error: {name} answered, but not for all packages ({error}); run it again")
    print(f"audit: skipped, no database of vulnerabilities can be asked from here ({'; '.join(reasons)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
