"""What of other libraries can be imported where they are not installed, and what it says then."""

import sys

import pytest

import varscope as vs
from varscope.interop import dask as vd


@pytest.mark.parametrize("missing", ["distributed", "dask.array"])
@pytest.mark.parametrize(
    "use",
    [
        lambda: vd.Cluster(None),
        lambda: vd.materialise(vs.Graph(), None, "model"),
        lambda: vd.save(vs.Graph(), None, "model"),
        lambda: vd.restore("model", None),
        lambda: vd.to_dask(vs.Graph()),
    ],
)
def test_without_dask_there_is_an_error_that_says_how_to_get_it(monkeypatch, missing, use):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "varscope-core\[dask\]"'):
        use()


@pytest.mark.parametrize("name", vd.__all__)
def test_a_public_name_says_what_it_is(name):
    assert (getattr(vd, name).__doc__ or "").strip()
    assert getattr(vd, name).__module__.startswith("varscope.interop.dask")
