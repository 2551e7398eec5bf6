"""What a config can ask for: one file a task, each with `run(config, workdir)`; the applications' in a folder each."""
