"""The device of the models in the tests: the CPU, or what `TEST_DEVICE` names (`scripts/check-gpu`)."""

import os

DEVICE = os.environ.get("TEST_DEVICE", "cpu")
