"""The parts of proximal policy optimisation: how answers are made, and what is learnt of them."""
