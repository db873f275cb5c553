"""The training methods, one file each: `build(run)` returns its trainer. See `config.methods`."""
