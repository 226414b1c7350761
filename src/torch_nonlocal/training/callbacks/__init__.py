"""What training records: metrics.jsonl, TensorBoard curves, a progress bar, attention statistics."""
