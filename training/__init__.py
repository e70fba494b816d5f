"""How weights are changed: trainer, evaluator, metrics, optimizers. Knows no flag, no file name of a script, no transfer."""
