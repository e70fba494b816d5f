"""What is learned from: tokenizers, texts, token blocks on disk, batches; corpus/ writes the built-in documents."""
