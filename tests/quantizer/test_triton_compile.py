"""Both kernels compile for the GPUs that are trained on, with what the compiler makes
of them within bounds; no GPU needed. Every form: `benchmarks/gpu/compile_kernels.py`.
"""

import pytest

from benchmarks.gpu import compile_kernels
from benchmarks.gpu.compile_kernels import CAPABILITIES, KERNELS, WIDTHS, Form

pytestmark = pytest.mark.skipif(
    compile_kernels.unavailable() is not None,
    reason=str(compile_kernels.unavailable()),
)

# Every capability, width, granularity, pass and alignment with every kernel.
FORMS = [
    Form(kernel, CAPABILITIES[i % 7], WIDTHS[i], *bool_row)
    for kernel in KERNELS
    for i, bool_row in enumerate(
        [
            (False, True, True),
            (True, True, True),
            (True, False, False),
            (False, False, True),
            (False, False, True),
            (True, True, False),
            (True, False, True),
            (False, False, False),
        ]
    )
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_compiles_within_bounds(form, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert compile_kernels.beyond_limits(compile_kernels.compile_form(form)) == []


def test_forms_cover_every_choice():
    for kernel in KERNELS:
        forms = [f for f in FORMS if f.kernel == kernel]
        assert {f.capability for f in forms} == set(CAPABILITIES)
        assert {f.bits for f in forms} == set(WIDTHS)
        for choice in ("per_row", "hard", "aligned"):
            assert {getattr(f, choice) for f in forms} == {False, True}
