"""What computes: the transformer, opening folders of any causal language model, ChatML, the cache, packed weights."""
