"""Local servers that speak each provider's API, and the machines that they rent out."""
