"""Where machines come from. One provider is one file."""
