"""What ships with the package: for each model NAME the files NAME.safetensors (weights), NAME.statistics.safetensors
(of the data it was trained on) and NAME.md (its card); for each extractor of features NAME.extractor.safetensors and
NAME.md."""

from importlib import resources
from pathlib import Path

from prescore.errors import PrescoreError, suggest

FOLDER = Path(str(resources.files(__name__)))
SUFFIX, STATISTICS_SUFFIX, EXTRACTOR_SUFFIX = ".safetensors", ".statistics.safetensors", ".extractor.safetensors"


def shipped_models() -> list[str]:
    """Names of the shipped models that can be sampled."""
    return sorted(p.name.removesuffix(SUFFIX) for p in FOLDER.glob("*" + SUFFIX) if p.name.count(".") == 1)


def find(name_or_path: str | Path, suffix: str = SUFFIX) -> Path:
    """The file of a shipped model, or the path itself.

    Raises:
        PrescoreError: there is neither, or the system does not let look.
    """
    if (name := str(name_or_path)) in shipped_models():
        return FOLDER / (name + suffix)
    path = Path(name_or_path)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # of a folder that may not be searched, or a name that is too long
        raise PrescoreError(f"{path}: cannot be read ({error.strerror})") from None
    if is_folder:
        raise PrescoreError(f"{path}: is a folder; name a file in it, or a shipped model")
    if not is_file:
        raise PrescoreError(f"{path}: no such file, and no shipped model; {suggest(name, shipped_models())}")
    return path
