"""One home each for what several packages need: files, tensors in files, tracing, module outputs."""
