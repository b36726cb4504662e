"""What a sentence-transformers configuration says, computed. It must never know pipelines."""
