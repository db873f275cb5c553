"""What a training leaves: the output, merged and exported models, uploads, the model card."""
