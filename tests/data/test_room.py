import subprocess
import sys

import pytest

import equipoise.data


def test_every_public_name_is_there():
    found = {name: getattr(equipoise.data, name) for name in equipoise.data.__all__}
    assert all(getattr(thing, "__name__", name) == name for name, thing in found.items())
    with pytest.raises(AttributeError, match="nothing"):
        _ = equipoise.data.nothing


def test_importing_the_room_loads_no_table_library():
    code = (
        "import sys, equipoise.data as d; d.StratifiedBatchSampler\n"
        "print([m for m in ('pandas', 'sklearn', 'skrub', 'polars', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
