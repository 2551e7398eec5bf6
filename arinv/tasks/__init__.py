"""What a config can ask for: one file a task, each with `run(config, workdir)`."""
