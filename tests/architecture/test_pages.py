"""Every page that is made from the code is what the code says today."""

import pytest

from tools.docs import PAGES, ROOT


@pytest.mark.parametrize("path", PAGES)
def test_a_page_made_from_the_code_is_current(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == PAGES[path](), "run ./dev docs"
