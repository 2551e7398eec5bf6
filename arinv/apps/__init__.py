"""Applications, a folder each: algorithms over callables (`decode_fn`) beside the tasks around them."""
