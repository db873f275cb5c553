"""Machines for money: found, hired, held, paid, lost and given back."""
