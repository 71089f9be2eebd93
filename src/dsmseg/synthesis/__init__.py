"""Bodies to learn from without a download: label maps, deformed and given intensities."""
