"""Where a turn is sampled: in process, or by vLLM."""
