"""Models that are Python code of the user's own."""

import sys
from pathlib import Path

import pytest

from prescore.checkpoints.python import code_digest, open_python

FACTORY = """
from prescore import Denoiser
{imported}

def make():
    return Denoiser(lambda x, sigma: x, (2,), 0.1, 1.0)
"""


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Opens a factory as a new process would, and says the digest of its code."""
    monkeypatch.chdir(tmp_path)

    def opened(name: str) -> str:
        before = set(sys.modules)
        try:
            open_python(name)
            return code_digest(name)
        finally:
            for module in set(sys.modules) - before:
                del sys.modules[module]

    return opened


@pytest.mark.parametrize(
    ("name", "file", "other", "imported"),
    [
        (
            "ownpackage.deep.factory",
            "ownpackage/deep/factory.py",
            "ownpackage/layers.py",
            "from ownpackage import layers",
        ),
        ("ownfactory", "ownfactory.py", "ownlayers.py", "import ownlayers"),
    ],
)
def test_the_digest_is_of_all_that_the_factory_is_made_of(tmp_path, digest, name, file, other, imported):
    for path in (file, other):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(FACTORY.format(imported=imported))
    (tmp_path / other).write_text("WIDTH = 3\n")
    unused = (tmp_path / other).with_name("ownunused.py")
    unused.write_text("WIDTH = 3\n")
    first = digest(f"{name}:make")
    assert len(first) == 16
    assert digest(f"{name}:make") == first
    unused.write_text("WIDTH = 12345\n")
    assert digest(f"{name}:make") == first
    (tmp_path / other).write_text("WIDTH = 12345\n")
    second = digest(f"{name}:make")
    (tmp_path / file).write_text(FACTORY.format(imported=imported) + "# changed\n")
    assert len({first, second, digest(f"{name}:make")}) == 3


def test_code_without_a_file_has_no_digest():
    assert code_digest("sys:path") == ""
