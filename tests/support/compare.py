"""Equal, but for the last digits of computed numbers."""

from typing import Any

import numpy as np
import pytest


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """The same structure and texts, and numbers within the tolerance, absolute or relative."""
    if isinstance(ours, np.ndarray):
        ours = ours.tolist()
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, tolerance)
    elif isinstance(theirs, str) or theirs is None:
        assert ours == theirs
    else:
        assert float(ours) == pytest.approx(float(theirs), rel=tolerance, abs=tolerance)
