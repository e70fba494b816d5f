"""What was found, and how it is shown. Each module runs by itself: python -m studies.experiments, and so on."""
