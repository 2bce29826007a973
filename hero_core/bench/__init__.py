"""Measuring the loop against raters whose taste is known."""
