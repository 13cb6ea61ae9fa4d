"""Killed and concurrent exports: no files remain, and files of others are not touched."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.staging import staging_folder

EXPORTS = """
import signal, sys, time
from pathlib import Path
from ld4lg_fast.export.staging import staging_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
with staging_folder(Path(sys.argv[1])) as folder:
    (folder / "folder").mkdir()
    (folder / "folder" / "weights.bin").write_bytes(b"half")
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def exporting(tmp_path):
    """A process in the middle of an export to ``out``."""
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", EXPORTS, target], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"there\n"
        yield target, process
        process.kill()


def around(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_killed_export_left_is_swept_by_the_next(exporting, end):
    target, process = exporting
    process.send_signal(end)
    process.wait(60)
    assert end == signal.SIGINT or len(around(target)) == 2, "nothing to sweep proves nothing"
    strangers = {
        ".out.exporting-mine",
        ".out.abcdefgh",
        ".other.exporting-abcdefgh",
        ".out.exporting-ABCDEFGH",
    }
    for name in strangers:
        (target.parent / name).mkdir()
    linked = target.parent / ".out.exporting-aaaaaaaa"
    linked.symlink_to(target.parent / ".out.abcdefgh")
    with staging_folder(target) as folder:
        assert around(target) == strangers | {".out.exporting", linked.name, folder.name}
    assert around(target) == strangers | {linked.name}


def test_a_living_export_is_left_alone(exporting):
    target, process = exporting
    before = around(target)
    sentence = "Another process is exporting to .*out; wait until it ends"
    with pytest.raises(ConfigError, match=sentence), staging_folder(target):
        pass
    assert around(target) == before and process.poll() is None
    with staging_folder(target.parent / "out2"):
        assert before < around(target)
    assert around(target) == before
