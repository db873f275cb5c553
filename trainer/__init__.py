"""What runs on the GPU machine: one training job from one job directory.

This package imports neither Prefect nor the packages above it. Its contract modules
(`config`, `errors`, `job_directory`, `manifest`, `metrics`) never import torch, so that an
orchestrator can read what a trainer writes without having one installed.
"""
