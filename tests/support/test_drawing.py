"""matplotlib without a window."""

import os
import subprocess
import sys

from tests.helpers import ROOT

import pytest


@pytest.mark.slow
def test_the_backend_of_a_notebook_does_not_matter():
    """Bug: in a notebook's `!python train_generator.py …` MPLBACKEND names a backend that is not installed here, and the
    training died at its first evaluation."""
    program = "from support.drawing import plt; assert plt.get_backend() == 'agg'"
    environment = {**os.environ, "MPLBACKEND": "module://no_such_package.backend_inline"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
