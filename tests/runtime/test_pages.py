import mmap
from pathlib import Path

import pytest
import torch

from espnet_gq.runtime import pages
from espnet_gq.runtime.pages import AREA, HUGE, LEAST, empty_planes

SIZES = (0, 1, LEAST, 3 * 10**6, AREA // 2 + 1, 5 * 10**6)


def test_each_has_storage_of_its_own():
    made = [empty_planes(size).fill_(i) for i, size in enumerate(SIZES)]
    for i, (planes, size) in enumerate(zip(made, SIZES)):
        assert planes.dtype is torch.uint8 and planes.numel() == size
        assert planes.untyped_storage().nbytes() == size
        assert planes.data_ptr() % 64 == 0
        assert bool((planes == i).all())


def test_an_area_lives_as_long_as_its_planes():
    first = empty_planes(LEAST).fill_(7)
    for _ in range(3):  # begins new areas
        empty_planes(AREA // 2)
    assert pages._area is not None and bool((first == 7).all())


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="no huge pages")
def test_huge_pages_are_asked_for():
    planes = empty_planes(2 * HUGE)
    asked, inside = False, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= planes.data_ptr() < end
        elif inside and first == "VmFlags:":
            asked = "hg" in line.split()
    assert asked
