"""What only a source checkout has: the tools that some demos are played with."""

import importlib
import sys
from pathlib import Path
from typing import Any

from paddock.core.errors import Broken


def tool(name: str, *, option: str) -> Any:
    """A module of tools/. Broken, naming the option that wants it, where Paddock was installed without them."""
    root = Path(__file__).parents[3]
    if not (root / "tools" / f"{name}.py").is_file():
        raise Broken(
            f"demo: {option} works from a source checkout only", hint=f"git clone it, then: ./dev demo {option}"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"tools.{name}")
