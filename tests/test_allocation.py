"""Freed memory is kept where the C library can be told to."""

import platform

from lift_core.allocation import keep_freed_memory


def test_glibc_and_no_other_library_is_told() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
