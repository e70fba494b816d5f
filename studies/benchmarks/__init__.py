"""Speed beside others: python -m studies.benchmarks.decoding, and so on."""
