"""Configurations in yml and JSON files, which are untrusted, as plain data.

Marks of two Python objects, with which training code leaves its options, are read as plain data: `argparse.Namespace`
and `torch.device`. Any other is refused.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prescore.checkpoints.arguments import MAX_TEXT, is_of, parse_json, shorten
from prescore.errors import PrescoreError

MAX_YML_BYTES = 20_000
NAMESPACE = "tag:yaml.org,2002:python/object:argparse.Namespace"
DEVICE = "tag:yaml.org,2002:python/object/apply:torch.device"
NOTHING = object()  # the default of an entry that need not be there


def read_configuration(file: Path) -> Any:
    """Plain data of a yml file, or of a JSON file, which begins with a brace.

    Raises:
        PrescoreError: it cannot be read, or is not plain data; without the path.
    """
    try:
        with open(file, "rb") as stream:
            text = stream.read(MAX_YML_BYTES + 1)
    except OSError as error:
        raise PrescoreError(f"cannot be read ({error.strerror})") from None
    if text.lstrip()[:1] == b"{" and len(text) <= MAX_YML_BYTES:
        return parse_json(text)
    return parse_yml(file)


def section(content: object, name: str, default: object = None) -> dict[str, Any]:
    section = content.get(name, default) if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise PrescoreError(f"it has no section {name!r}")
    return section


def entry(section: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = section.get(name, default)
    if value is NOTHING:
        return None
    if value is None:
        raise PrescoreError(f"the entry {name!r} is missing")
    if not is_of(value, kind):
        raise PrescoreError(f"{name}: {shorten(value)} is not valid")
    return value


def parse_yml(file: Path) -> Any:
    """Plain data of a yml, read by a loader that makes nothing else."""
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise PrescoreError("reading it needs PyYAML; pip install '.[yaml]' in the clone") from None

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            # A few aliases of aliases stand for more nodes than fit in memory.
            if self.check_event(yaml.AliasEvent):
                raise PrescoreError("it has an alias (*name), which no configuration needs; refused")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            content = super().construct_mapping(node, deep)
            if len(content) < len(node.value):
                names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
                raise PrescoreError(f"the name {shorten(names.most_common(1)[0][0])} is given twice")
            return content

    Loader.add_constructor(NAMESPACE, lambda loader, node: loader.construct_mapping(node, deep=True))
    Loader.add_constructor(DEVICE, lambda loader, node: loader.construct_sequence(node))
    try:
        with open(file, "rb") as stream:
            text = stream.read(MAX_YML_BYTES + 1)
        if len(text) > MAX_YML_BYTES:
            raise PrescoreError(f"it is larger than {MAX_YML_BYTES} bytes, which no configuration is")
        return yaml.load(text.decode(), Loader)
    except PrescoreError:
        raise
    except OSError as error:
        raise PrescoreError(f"cannot be read ({error.strerror})") from None
    except yaml.constructor.ConstructorError as error:
        raise PrescoreError(f"{' '.join(str(error.problem).split())[:MAX_TEXT]}; refused, not run") from None
    except Exception as error:  # numbers, dates and nesting that are out of range end in errors of several kinds
        reason = shorten(" ".join(str(error).split()))
        raise PrescoreError(f"not a yml ({type(error).__name__}: {reason})") from None
