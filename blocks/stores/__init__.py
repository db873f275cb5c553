"""Object stores: folders, S3 and what speaks it, Google Cloud Storage, Azure Blob."""
