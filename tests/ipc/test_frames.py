from __future__ import annotations

import pytest

from clockworker.ipc.calls._frames import Kind


@pytest.mark.parametrize("kind", list(Kind))
def test_no_kind_is_zero_and_all_fit_a_byte(kind: Kind) -> None:
    assert 0 < kind < 256
