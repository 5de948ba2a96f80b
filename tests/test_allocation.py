"""Freed memory is kept where the C library can be told to, in huge pages unless the environment forbids them."""

import os
import platform
import sys

import pytest

from lift_core.allocation import tune_allocator


def test_glibc_and_no_other_library_is_told() -> None:
    assert tune_allocator() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are asked for on Linux alone")
def test_what_the_environment_says_of_pages_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    tune_allocator()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    tune_allocator()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
