"""Phantom anatomy: a parametric body with all 25 organs and what a CT shows around them."""
