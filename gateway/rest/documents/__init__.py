"""The routes, as programs that were written before this service call them."""
