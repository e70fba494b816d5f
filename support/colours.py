"""The colours of every plot: Okabe and Ito's, which readers who are colour-blind tell apart too."""

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"
PURPLE, SKY = "#cc79a7", "#56b4e9"
