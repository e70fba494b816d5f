"""matplotlib without a window, whatever MPLBACKEND says.

A notebook sets it for the processes that it starts, too, and where the notebook's backend is not installed, matplotlib cannot
even be imported.
"""

import os

os.environ["MPLBACKEND"] = "agg"

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

__all__ = ["Figure", "plt"]
