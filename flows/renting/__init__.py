"""Rented machines: found, hired, held, paid for, lost and given back."""
