"""Settings: an operator's YAML file, read with line marks and handed down as core values."""

from paddock.settings.explanation import Explanation, explain, spell
from paddock.settings.loading import Loaded, load, read
from paddock.settings.problems import Invalid, Mark, Problem
from paddock.settings.reference import reference, schema

__all__ = [
    "Explanation",
    "Invalid",
    "Loaded",
    "Mark",
    "Problem",
    "explain",
    "load",
    "read",
    "reference",
    "schema",
    "spell",
]
