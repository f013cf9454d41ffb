"""Models that are Python code of the user's own, named as `package.module:factory`.

The factory is called without arguments and returns a `Denoiser`. Its module is imported, that is run, so that nothing
but what the user types is taken for such a name: no file holds one, and a file or folder of that name goes before.
"""

import hashlib
import importlib
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
DIGITS = 16  # of a digest


def is_python(name: str) -> bool:
    """Whether this names a factory of the user's own code, and no file."""
    return NAME.fullmatch(name) is not None and not os.path.lexists(name)


def open_python(name: str) -> Denoiser:
    """What the factory of this name makes. Modules are looked for in the current folder too, before all others.

    Raises:
        PrescoreError: there is no such module or factory, either fails, or what it makes is no `Denoiser`.
    """
    module, _, path = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        made: object = importlib.import_module(module)
        for part in path.split("."):
            made = getattr(made, part)
        if callable(made) and not isinstance(made, Denoiser):
            made = made()
    except (Exception, SystemExit) as error:
        raise PrescoreError(f"model: {name} cannot be had ({type(error).__name__}: {error})") from error
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
    if not isinstance(made, Denoiser):
        raise PrescoreError(f"model: {name} returned a {type(made).__name__}; a prescore.Denoiser is needed")
    return made


def code_digest(name: str) -> str:
    """Enough of the SHA-256 of a factory's code to tell whether it is still the same; "" without a file of it.

    Its code is that of its module, of what was imported of the same top-level package, and, unless they are installed
    packages, of the modules that were imported from beside it.
    """
    module = name.partition(":")[0]
    own = getattr(sys.modules.get(module), "__file__", None)
    if not own:
        return ""
    top, folder = module.partition(".")[0], Path(own).parent
    digest = hashlib.sha256()
    for other in sorted(sys.modules):
        file = getattr(sys.modules[other], "__file__", None)
        is_beside = file is not None and Path(file).parent == folder and "site-packages" not in folder.parts
        if file and (other.partition(".")[0] == top or is_beside) and Path(file).is_file():
            digest.update(f"{other}\n".encode() + Path(file).read_bytes())
    return digest.hexdigest()[:DIGITS]
