"""What is learned from: tokenizers, texts, token blocks on disk, batches, and corpus/, the built-in writer of documents."""
