"""Modules that a library names at its top and nobody uses, loaded when they are first used.

Effects: none but on what is loaded.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

HEAVY = ("urllib.request", "importlib.metadata")
"""What websockets asks for the environment's proxies, which we know, and for a version, which it knows: with all that
they load in turn, 4.5 MB of each agent.
"""


class _Deferred(ModuleType):
    """Stands for a module until something of it is asked for.

    Not importlib's LazyLoader: an import statement looks at the `__spec__` of what is loaded, and wakes that one.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def defer(*names: str) -> None:
    """Let each of these modules of a package wait for its first use. One that is loaded stays as it is."""
    for name in names:
        if name not in sys.modules:
            package, _, own = name.rpartition(".")
            sys.modules[name] = _Deferred(name)
            # `import a.b` finds b among the loaded ones, and leaves it to whoever loaded it to put it into a.
            setattr(import_module(package), own, sys.modules[name])
