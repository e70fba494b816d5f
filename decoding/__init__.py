"""What may be done to logits beyond the exercise's five rules."""
