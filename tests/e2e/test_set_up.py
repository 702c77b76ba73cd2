"""What a machine lacks for the set-up is said in one line, before anything is fetched."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LACKS_HEADERS = "import sysconfig; sysconfig.get_path = lambda *_: '/nonexistent'"
LACKS_VENV = "import sys; sys.modules['venv'] = None"
LACKS_NEWS = "import sys; sys.version_info = (3, 10)"


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        (LACKS_HEADERS, "install python3-dev"),
        (LACKS_VENV, "install python3-venv"),
        (LACKS_NEWS, "Python 3.11 or newer"),
    ],
)
def test_make_install_names_what_the_machine_lacks(tmp_path: Path, lacks: str, said: str) -> None:
    tree, tools, site = tmp_path / "a tree", tmp_path / "bin", tmp_path / "site"
    shutil.copytree(ROOT / "requirements", tree / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    for folder in (tools, site):
        folder.mkdir()
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    (tools / "cc").symlink_to("/bin/true")
    (site / "sitecustomize.py").write_text(lacks)
    make = shutil.which("make")
    assert make is not None

    done = subprocess.run(
        [make, "install"], cwd=tree, env={"PATH": str(tools), "PYTHONPATH": str(site)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tree / ".venv").exists()
