"""Other people's trainers: any command, under the same supervision as our own. Stdlib only."""
