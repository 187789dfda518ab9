"""Reading the text of compiled programs."""

import pytest

from vidjax.plan import hlo


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x'}, use_global_device_ids=true", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=4] {'y':(1)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("channel_id=1", [[0, 1, 2, 3]]),
    ],
)
def test_groups(text, groups):
    """A group read wrongly gives each collective the wrong share, or the wrong network."""
    assert hlo.read_groups(text, 4) == groups
